"""generate() of every family behind blink.attach against recomputing the whole sequence with the prompt's events."""

from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from blink.model.backbone import CACHE
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.cases import CASES, CYCLE, SCHEMES, SIZES, UNEVEN, named, scheme_of
from tests.inference.oracle.comparison import attached, check_generation, family_of, modules_of, samples
from tests.inference.oracle.pictures import QWEN


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_every_step_equals_recomputing(case: str, uneven: bool) -> None:
    """Catches generated tokens at another layer's or row's positions, and masks that lose part of an extension."""
    pair = named(case)
    plan = oracle.Plan(**CYCLE, **(UNEVEN if uneven else {}), positions=scheme_of(case, uneven))
    inputs = models.batch(pair.model, [21, 22, 23], list(SIZES[:3]))
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    assert len(check_generation(pair, inputs, plan, modules_of(pair.twin), **settings)) >= 2


@pytest.mark.parametrize("case", CASES)
def test_greedy_ids(case: str) -> None:
    """Catches what teacher forcing could hide: the oracle decodes by itself, token by token."""
    pair, modules = named(case), modules_of(named(case).twin)
    plan = oracle.Plan(**CYCLE, patches=3, positions=scheme_of(case))
    inputs = models.batch(pair.model, [31, 32], list(SIZES[1:3]))
    with attached(pair.model, plan, modules):
        ids = pair.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    compared = 0
    for row, sample in zip(
        ids[:, inputs["input_ids"].shape[1] :].tolist(), samples(pair.twin, inputs), strict=True
    ):
        want, lead = oracle.generate(pair.twin, sample.ids_S, sample.picture, plan, modules, 5)
        if lead > 1e-3:
            assert row[: len(want)] == want
            compared += 1
    assert compared


@pytest.mark.parametrize("case", CASES)
def test_beams(case: str) -> None:
    """Catches grids, positions or lengths that are not reordered with the beams."""
    pair, modules = named(case), modules_of(named(case).twin)
    plan = oracle.Plan(**CYCLE, **UNEVEN, positions=scheme_of(case, 1))
    inputs = models.batch(pair.model, [41, 42], list(SIZES[:2]))
    settings: dict[str, Any] = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False}
    settings |= {"eos_token_id": None, "length_penalty": 0.0, "num_return_sequences": 2}
    with attached(pair.model, plan, modules):
        out = pair.model.generate(**inputs, **settings, output_scores=True, return_dict_in_generate=True)
    tokens = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    for row, sample in enumerate(samples(pair.twin, inputs)):
        want = oracle.beam_search(pair.twin, sample.ids_S, sample.picture, plan, modules, 3, 2)
        assert tokens[2 * row : 2 * row + 2] == [beam for beam, _ in want]
        scores = out.sequences_scores[2 * row : 2 * row + 2].tolist()
        assert scores == pytest.approx([score for _, score in want], abs=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_sampling(case: str) -> None:
    """Catches rows that are not repeated with `num_return_sequences`: the oracle draws with the same seed."""
    pair, modules = named(case), modules_of(named(case).twin)
    plan = oracle.Plan(**CYCLE, positions=scheme_of(case, 1))
    inputs = models.batch(pair.model, [51, 52], list(SIZES[2:4]))
    torch.manual_seed(5)
    settings: dict[str, Any] = {"max_new_tokens": 3, "do_sample": True, "top_k": 0, "eos_token_id": None}
    with attached(pair.model, plan, modules):
        out = pair.model.generate(**inputs, **settings, num_return_sequences=2)
    rows = [sample for sample in samples(pair.twin, inputs) for _ in range(2)]
    replays = [oracle.replay_of(oracle.run(pair.twin, row.ids_S, row.picture, plan, modules)) for row in rows]
    wholes = [row.ids_S for row in rows]
    torch.manual_seed(5)
    for _ in range(3):
        logits = [
            oracle.run(pair.twin, whole, row.picture, plan, modules, len(row.ids_S), replay).logits_SW[-1]
            for whole, row, replay in zip(wholes, rows, replays, strict=True)
        ]
        tokens = torch.multinomial(torch.stack(logits).softmax(-1), num_samples=1)
        wholes = [torch.cat([whole, token]) for whole, token in zip(wholes, tokens, strict=True)]
    start = inputs["input_ids"].shape[1]
    assert out[:, start:].tolist() == [whole[-3:].tolist() for whole in wholes]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", QWEN)
def test_generations_inside_generations(case: str, scheme: str) -> None:
    """Catches rope deltas of a running generation that live on the model: each token starts another prompt."""
    pair = named(case)
    outer = models.batch(pair.model, [65, 66], list(SIZES[1:3]))
    inner = [models.batch(pair.model, [67], [SIZES[3]]), models.batch(pair.model, [68, 69], list(SIZES[3:]))]
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    settings |= {"output_logits": True, "return_dict_in_generate": True}

    class Interrupt(LogitsProcessor):
        """Answers other prompts before each token of this one."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            for inputs in inner:
                pair.model.generate(**inputs, **settings)
            return scores

    with attached(pair.model, oracle.Plan(**CYCLE, positions=scheme), modules_of(pair.twin)):
        alone = pair.model.generate(**outer, **settings)
        disturbed = pair.model.generate(
            **outer, **settings, logits_processor=LogitsProcessorList([Interrupt()])
        )
    assert torch.equal(torch.stack(disturbed.logits), torch.stack(alone.logits))


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", ["qwen2_vl", "qwen3_vl", "smolvlm"])
def test_interleaved_caches(case: str, scheme: str, rows: int) -> None:
    """Catches rope deltas or grids kept on the model: two decodings driven by hand go on from their own caches."""
    pair, modules = named(case), modules_of(named(case).twin)
    plan = oracle.Plan(**CYCLE, patches=3, positions=scheme)
    sides = [
        models.batch(pair.model, [71, 72], list(SIZES[:2])),
        models.batch(pair.model, [73, 74, 75][:rows], list(SIZES[2 : 2 + rows])),
    ]
    tokens = [torch.arange(40, 46).view(2, 3), torch.arange(50, 50 + 3 * rows).view(rows, 3)]
    with attached(pair.model, plan, modules), torch.no_grad():
        outs = [pair.model(**inputs, use_cache=True) for inputs in sides]
        caches, masks = [out[CACHE] for out in outs], [inputs["attention_mask"] for inputs in sides]
        steps: list[list[torch.Tensor]] = [[], []]
        for step in range(3):
            for side in (0, 1):
                new = tokens[side][:, step : step + 1]
                masks[side] = torch.cat([masks[side], torch.ones_like(new)], dim=1)
                out = pair.model(input_ids=new, attention_mask=masks[side], **{CACHE: caches[side]})
                steps[side].append(out.logits[:, -1])
    for side, inputs in enumerate(sides):
        for row, sample in enumerate(samples(pair.twin, inputs)):
            whole_S = torch.cat([sample.ids_S, tokens[side][row]])
            want = oracle.run(pair.twin, whole_S, sample.picture, plan, modules, len(sample.ids_S))
            if not comparison.undecided(want):
                got = torch.stack([step[row] for step in steps[side]])
                comparison.check_logits(got, want.logits_SW[-3:], family_of(pair.model))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", QWEN)
def test_positions_of_a_step(case: str, scheme: str) -> None:
    """Catches positions of new tokens that are taken in silence though they do not follow the prompt's."""
    pair = named(case)
    inputs = models.batch(pair.model, [71, 72], list(SIZES[1:3]))
    new, mask = (
        torch.tensor([[9], [8]]),
        torch.cat((inputs["attention_mask"], torch.ones(2, 1).long()), dim=1),
    )

    def step(places: torch.Tensor | None) -> torch.Tensor:
        cache = pair.model(**inputs, use_cache=True)[CACHE]
        given = {} if places is None else {"position_ids": places}
        logits: torch.Tensor = pair.model(
            input_ids=new, attention_mask=mask, **given, **{CACHE: cache}
        ).logits
        return logits

    stock = pair.twin.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )[0]
    stock = stock.masked_fill(~inputs["attention_mask"].bool(), 0)
    follow = (stock.amax(dim=(0, 2)) + 1)[:, None].expand(3, -1, -1)
    with attached(pair.model, oracle.Plan((1, 2), 0.0, 0.0, positions=scheme)), torch.no_grad():
        want = step(None)
        assert torch.equal(step(follow), want)
        assert torch.equal(step(torch.cat((mask.sum(dim=1)[None, :, None] - 1, follow))), want)  # as generate
        for wrong in (follow + 1, torch.zeros_like(follow), follow + torch.tensor([[0], [1]])):
            with pytest.raises(ValueError, match="position_ids"):
                step(wrong)
