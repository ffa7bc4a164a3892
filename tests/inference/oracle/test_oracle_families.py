"""blink.attach on prompts of every family against the literal Algorithm 1, in both schemes of positions."""

from typing import Any

import pytest
import torch

import blink
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.cases import CASES, SCHEMES, SIZES, named, scheme_of
from tests.inference.oracle.comparison import (
    Rig,
    attached,
    check_prompt,
    family_of,
    modules_of,
    random_plan,
    rig,
    samples,
)
from tests.inference.oracle.pictures import QWEN, cells

SEEDS = range(4)


def drawn(case: str, seed: int) -> tuple[Rig, oracle.Plan, dict[int, Any] | None, dict[str, torch.Tensor]]:
    """The seed's rig, plan, modules and a batch of one to three pictures of different shapes."""
    family, usual = CASES[case]
    settings = {**usual, "attention": ("sdpa", "eager")[seed % 2]}
    pair, rows = rig(family, **settings), 1 + (seed + 1) % 3
    key = 1000 * list(CASES).index(case) + seed
    plan = random_plan(key, family, (2, 3, 4), sizes=SIZES, schemes=SCHEMES, **settings)
    shapes = [SIZES[(seed + row) % len(SIZES)] for row in range(rows)]
    inputs = models.batch(pair.model, [10 * key + row for row in range(rows)], shapes)
    return pair, plan, modules_of(pair.twin) if seed % 3 else None, inputs


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", CASES)
def test_random_policies(case: str, seed: int) -> None:
    """Catches a wrong base view, grid, cut, place or position of an extension, and one row's taken for all."""
    pair, plan, modules, inputs = drawn(case, seed)
    check_prompt(pair, inputs, plan, modules)


def test_random_policies_cover_every_transition() -> None:
    """Cases in which nothing happens, or the same in every row, prove nothing; nor do those of one scheme."""
    seen: set[str] = set()
    differing, schemes = 0, set()
    for case in CASES:
        expanding = 0
        for seed in SEEDS:
            pair, plan, modules, inputs = drawn(case, seed)
            outcomes = [
                oracle.run(pair.twin, sample.ids_S, sample.picture, plan, modules)
                for sample in samples(pair.twin, inputs)
            ]
            found = {action for outcome in outcomes for action in comparison.transitions(outcome)}
            seen |= found
            expanding += "expand nothing" in found
            differing += len({tuple(oracle.replay_of(outcome).items()) for outcome in outcomes}) > 1
            schemes |= {(family_of(pair.twin), plan.positions)} if "expand nothing" in found else set()
        assert expanding >= 2, case
    assert seen == comparison.EVERY_TRANSITION
    assert differing >= len(CASES)
    assert len(schemes) >= 16


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_each_shape_of_picture(case: str, size: tuple[int, int]) -> None:
    """Catches one shape of picture, or number of tiles, whose spans or cells are found wrongly."""
    pair, scheme = named(case), scheme_of(case, SIZES.index(size))
    plan = oracle.Plan((1, 4), 0.0, 0.0, patches=3, positions=scheme)
    assert check_prompt(pair, models.batch(pair.model, [3], [size]), plan, modules_of(pair.twin))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_off_is_off(case: str, dtype: torch.dtype) -> None:
    """Catches any change of the stock logits, bit for bit: by a policy that never fires, or by what attach leaves.

    The stock models but Qwen's count padding as positions unless they are told not to, as `generate` tells them; behind
    attach padding never takes a position.
    """
    eager = (list(CASES).index(case) + (dtype == torch.bfloat16)) % 2
    pair = named(case, attention="eager" if eager else "sdpa", dtype=dtype)
    inputs = models.batch(pair.model, [61, 62, 63], list(SIZES[:3]))
    real = inputs["attention_mask"].bool()
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    uncounted = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    places = {} if pair.twin.config.model_type in QWEN else {"position_ids": uncounted}
    with torch.no_grad():
        stock = pair.twin(**inputs, **places).logits
        usual = pair.twin(**inputs).logits
        written = pair.twin.generate(**inputs, **settings)
        for scheme in SCHEMES:
            plan = oracle.Plan((0, 1, 4), tau_exp=1.0, tau_drop=0.0, positions=scheme)
            with attached(pair.model, plan) as handle:
                assert torch.equal(pair.model(**inputs).logits[real], stock[real])
                assert [[event.action for event in row] for row in handle.trace] == [["keep"] * 3] * 3
                assert torch.equal(pair.model.generate(**inputs, **settings), written)
        with attached(pair.model, oracle.Plan((1, 2), 0.0, 0.0)) as handle:
            assert not torch.equal(pair.model(**inputs).logits[real], stock[real])
            with handle.disabled():
                assert torch.equal(pair.model(**inputs).logits, usual)
                assert torch.equal(pair.model.generate(**inputs, **settings), written)
        assert torch.equal(pair.model(**inputs).logits, usual)
        assert torch.equal(pair.model.generate(**inputs, **settings), written)


@pytest.mark.parametrize("case", CASES)
def test_an_answer_changes_neither_events_nor_earlier_logits(case: str) -> None:
    """Catches a scan from the answer, or an answer at other positions than decoding gives it."""
    pair, modules = named(case), modules_of(named(case).twin)
    plan = oracle.Plan((0, 2, 4), 0.3, 0.25, patches=3, positions=scheme_of(case))
    inputs = models.batch(pair.model, [81, 82], list(SIZES[3:]))
    answer = torch.tensor([[40, 41, 42], [43, 44, 45]])
    forced = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], answer], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(answer)], dim=1),
    }
    if "mm_token_type_ids" in inputs:
        forced["mm_token_type_ids"] = torch.cat(
            [inputs["mm_token_type_ids"], torch.zeros_like(answer, dtype=inputs["mm_token_type_ids"].dtype)],
            dim=1,
        )
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], dim=1)
    with attached(pair.model, plan, modules) as handle, torch.no_grad():
        logits = pair.model(**forced, labels=labels).logits
        trace = handle.trace
    for row, sample in enumerate(samples(pair.twin, inputs)):
        whole_S = torch.cat([sample.ids_S, answer[row]])
        outcome = oracle.run(pair.twin, whole_S, sample.picture, plan, modules, len(sample.ids_S))
        if comparison.undecided(outcome):
            continue
        comparison.check_events(trace[row], outcome, family_of(pair.model))
        real_S = forced["attention_mask"][row].bool()
        comparison.check_logits(logits[row][real_S], outcome.logits_SW, family_of(pair.model))


@pytest.mark.parametrize("case", CASES)
def test_right_padding(case: str) -> None:
    """Catches a scan from a padding token, and positions that count padding."""
    pair, scheme = named(case), scheme_of(case)
    inputs = models.batch(pair.model, [91, 92, 93], list(SIZES[:3]))
    turned, real = {**inputs}, inputs["attention_mask"].bool()
    for name in {"input_ids", "attention_mask", "mm_token_type_ids"} & set(inputs):
        rows = [row[kept] for row, kept in zip(inputs[name], real, strict=True)]
        turned[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    assert not turned["attention_mask"][:, -1].all()
    assert check_prompt(pair, turned, oracle.Plan((1, 3), 0.0, 0.0, positions=scheme), modules_of(pair.twin))


@pytest.mark.parametrize("case", CASES)
def test_draws_do_not_depend_on_the_batch(case: str) -> None:
    """Catches sample keys that hash padding tiles or other rows' pixels, or miss the picture that generate has encoded."""
    model, sizes = named(case).model, list(SIZES[:3])
    seeds = [101, 102, 103]
    policy = blink.Policy(range(5), selector="random", schedule="random", patches=4)

    def events(rows: list[int], generate: bool = False) -> list[list[tuple[str, int]]]:
        inputs = models.batch(model, [seeds[row] for row in rows], [sizes[row] for row in rows])
        with attached(model, policy) as handle, torch.no_grad():
            if generate:
                model.generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False)
            else:
                model(**inputs)
            return [
                [(event.action, event.region if event.action == "expand" else -1) for event in row]
                for row in handle.trace
            ]

    together = events([0, 1, 2])
    assert len({tuple(row) for row in together}) > 1
    assert together == events([2, 1, 0])[::-1] == [events([row])[0] for row in range(3)]
    assert together == events([0, 1, 2], generate=True)


@pytest.mark.parametrize("case", CASES)
def test_drawn_regions_are_carried_out(case: str) -> None:
    """Catches a drawn region that is recorded but not cut: here the hottest is rarely the one."""
    pair, modules = named(case), modules_of(named(case).twin)
    plan = oracle.Plan((0, 2, 3, 4), schedule="cycle", patches=4, positions=scheme_of(case))
    inputs = models.batch(pair.model, [121, 122, 123], list(SIZES[:3]))
    policy = comparison.policy(plan, selector="random")
    with attached(pair.model, policy, modules) as handle, torch.no_grad():
        logits = pair.model(**inputs).logits
        trace = handle.trace
    elsewhere = 0
    for row, sample in enumerate(samples(pair.twin, inputs)):
        replay = {event.layer: (event.action, event.region) for event in trace[row]}
        outcome = oracle.run(pair.twin, sample.ids_S, sample.picture, plan, modules, replay=replay)
        elsewhere += sum(step.region != step.hottest for step in outcome.steps)
        if not comparison.undecided(outcome):
            comparison.check_events(trace[row], outcome, family_of(pair.model))
            real_S = inputs["attention_mask"][row].bool()
            comparison.check_logits(logits[row][real_S], outcome.logits_SW, family_of(pair.model))
    assert elsewhere >= 2


@pytest.mark.parametrize("case", ["smolvlm", "idefics3"])
def test_pictures_that_are_not_split(case: str) -> None:
    """Catches a global view that is looked for behind tiles: here it is all there is."""
    pair = named(case)
    processor = models.processor(pair.model)
    inputs = processor(
        images=[[models.picture(131)], [models.picture(132, SIZES[1])]],
        text=[models.prompt(seed, processor=processor) for seed in (131, 132)],
        padding=True,
        return_tensors="pt",
        do_image_splitting=False,
    )
    shown = (inputs["input_ids"] == pair.model.config.image_token_id).sum(dim=1)
    assert shown.tolist() == [cells(pair.model.config) ** 2] * 2
    kept = {name: tensor for name, tensor in inputs.items() if name not in ("rows", "cols")}
    plan = oracle.Plan((0, 2, 3), schedule="cycle", patches=3, positions=scheme_of(case))
    assert check_prompt(pair, kept, plan, modules_of(pair.twin))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", QWEN)
def test_stock_positions_may_be_given(case: str, scheme: str) -> None:
    """Catches positions of the caller that are taken as they are, or refused though they are the stock model's."""
    pair = named(case)
    inputs = models.batch(pair.model, [111, 112], list(SIZES[1:3]))
    places = pair.twin.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )[0]
    real = inputs["attention_mask"].bool()
    with attached(pair.model, oracle.Plan((1, 2), 0.0, 0.0, positions=scheme)), torch.no_grad():
        want = pair.model(**inputs).logits
        assert torch.equal(pair.model(**inputs, position_ids=places).logits[real], want[real])
        with pytest.raises(ValueError, match="position_ids"):
            pair.model(**inputs, position_ids=places + 1)


@pytest.mark.parametrize("case", QWEN)
def test_a_side_shorter_than_the_patches_is_refused(case: str) -> None:
    """Catches a grid of one or three rows that is cut into four: the error names the row."""
    pair = named(case)
    inputs = models.batch(pair.model, [1, 2], [SIZES[0], (16, 128)])
    with attached(pair.model, oracle.Plan((1,), patches=4)), pytest.raises(ValueError, match="row 1"):
        pair.model(**inputs)


@pytest.mark.parametrize("case", CASES)
def test_a_prompt_that_ends_at_its_picture_is_refused(case: str) -> None:
    """Catches a picture's closing tokens taken for a question; a single word behind them is one."""
    pair = named(case)
    processor, picture = models.processor(pair.model), [[models.picture(1, SIZES[1])]]
    token = getattr(processor, "image_token", "<image>")
    ending = "<|vision_end|>" if case in QWEN else ""
    with attached(pair.model, oracle.Plan((1,), 0.0, 0.0)), torch.no_grad():
        inputs = processor(images=picture, text=[f"the dog {token}{ending} cat"], return_tensors="pt")
        assert pair.model(**inputs).logits.isfinite().all()
        cut = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
        shorter = {name: value[:, :-1] if name in cut else value for name, value in inputs.items()}
        with pytest.raises(ValueError, match="row 0 of the prompt ends at its image"):
            pair.model(**shorter)
