"""The engine against attach + generate, one prompt and one run at a time, and what it saves."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import blink
from blink.inference.engine import Answer, Engine
from blink.inference.run import Run
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle.comparison import MARGIN, Sharpen, modules_of, rig

SMALL: dict[str, Any] = {"grid": 6, "kv_heads": 2}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("llava", SMALL),
    ("llava", {"grid": 6, "attention": "eager", "attention_bias": True}),
    ("llava_next", {"kv_heads": 2, "text": "mistral"}),
    ("llava", {"grid": 12}),
    ("llava_next", {"attention": "eager"}),
]
SEEDS = range(8)


class Reference(NamedTuple):
    """What attach + generate gave; `lead` is the smallest distance of the two largest logits at any step."""

    ids: tuple[int, ...]
    events: list[blink.Event]
    lead: float


def reference(
    model: Any, image: Image.Image, prompt: str, run: Run, max_new_tokens: int, key: str | None = None
) -> Reference:
    """One prompt under one run through the stock model's generate."""
    inputs = models.processor(model)(images=[image], text=[prompt], return_tensors="pt")
    inputs = inputs.to(dtype=model.dtype)
    handle = None if run.policy is None else blink.attach(model, run.policy, run.token_sr)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    try:
        if handle is not None and key is not None:
            with handle.sample_keys([key]):
                out = model.generate(**inputs, **settings)
        else:
            out = model.generate(**inputs, **settings)
        events = [] if handle is None else handle.trace[0]
    finally:
        if handle is not None:
            handle.detach()
    two = torch.stack(out.logits, dim=1)[0].topk(2).values
    ids = tuple(out.sequences[0, inputs["input_ids"].shape[1] :].tolist())
    return Reference(ids, events, float((two[:, 0] - two[:, 1]).min()))


def undecided(run: Run, want: Reference) -> bool:
    """Whether an event or a token is too close to call in float32."""
    policy = run.policy
    close = want.lead < MARGIN
    if policy is not None and policy.schedule == "threshold":
        close |= any(abs(event.ratio - tau) < MARGIN for event in want.events for tau in policy.thresholds)
    return close


def check(
    model: Any, image: Image.Image, prompts: Sequence[str], runs: Sequence[Run], tokens: int
) -> Counter[str]:
    """Every answer of the engine is that of attach + generate, near-ties set aside: counts of both, and of actions."""
    counts: Counter[str] = Counter()
    answers = Engine(model, models.processor(model)).answer(image, prompts, runs, max_new_tokens=tokens)
    assert [len(of_run) for of_run in answers] == [len(prompts)] * len(runs)
    for run, of_run in zip(runs, answers, strict=True):
        for prompt, got in zip(prompts, of_run, strict=True):
            want = reference(model, image, prompt, run, tokens)
            if undecided(run, want):
                counts["set aside"] += 1
            else:
                compare(got, want)
                counts["compared"] += 1
                counts.update(event.action for event in got.events)
    return counts


def compare(got: Answer, want: Reference) -> None:
    """Ids and events equal, ratios to the margin."""
    assert got.ids == want.ids
    fields = [(event.layer, event.region, event.action) for event in got.events]
    assert fields == [(event.layer, event.region, event.action) for event in want.events]
    for mine, theirs in zip(got.events, want.events, strict=True):
        assert mine.ratio == pytest.approx(theirs.ratio, abs=MARGIN)


def random_run(seed: int, family: str, settings: dict[str, Any], libraries: Sequence[Any]) -> Run:
    """A run drawn from `seed`: any policy, with one of some sets of modules."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.1:
        return Run()
    plan = comparison.random_plan(seed, family, (2, 3), **settings)
    drawn: dict[str, Any] = {
        "selector": "random" if rng.random() < 0.25 else "saliency",
        "schedule": "random" if rng.random() < 0.15 else plan.schedule,
        "seed": int(rng.integers(3)),
    }
    policy = comparison.policy(plan, **drawn)
    return Run(policy, libraries[int(rng.integers(len(libraries)))])


@cache
def random_cases(seed: int) -> Counter[str]:
    """Check twelve random cases, and count what they were."""
    family, settings = SHAPES[seed % len(SHAPES)]
    pair = rig(family, **settings)
    text = pair.model.config.text_config
    others = {layer: Sharpen(text.hidden_size, 7 + layer) for layer in range(text.num_hidden_layers)}
    libraries = (None, modules_of(pair.twin), others)
    systems = ("", "the red dog")
    prompts = [models.prompt(50 * seed + i, system=systems[i % 2]) for i in range(3)]
    runs = [random_run(100 * seed + i, family, settings, libraries) for i in range(4)]
    image = models.picture(seed, [(60, 60), (90, 40), (40, 90)][seed % 3])
    return check(pair.model, image, prompts, runs, tokens=4)


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_attach_and_generate(seed: int) -> None:
    """Would catch rows, extensions or keys shared that differ, and positions or masks of another row or layer."""
    assert random_cases(seed)["compared"]


def test_the_cases_above_say_something() -> None:
    """Cases without expansions, or mostly set aside, prove nothing. Those that ran in another worker are run again."""
    counts = sum(map(random_cases, SEEDS), Counter())
    assert counts["compared"] + counts["set aside"] == 96
    assert counts["set aside"] <= 4
    assert min(counts["expand"], counts["keep"], counts["drop"]) >= 20


def test_grid_of_thresholds() -> None:
    """Would catch runs that lose their own events once they share rows, part and share extensions."""
    pair = rig(**SMALL)
    found = comparison.ratios("llava", 2, "attention", **SMALL)
    taus = [float(np.quantile(found, share)) for share in (0.2, 0.5, 0.8)]
    modules = modules_of(pair.twin)
    runs = [
        Run(blink.Policy((1, 2, 4), high, low), modules) for high, low in itertools.product(taus, repeat=2)
    ]
    check(pair.model, models.picture(5), [models.prompt(i, system="") for i in range(3)], runs, tokens=3)


@pytest.mark.parametrize("kind", models.TEXT_MODELS)
def test_every_text_model(kind: str) -> None:
    """Would catch what a text model does outside its layers, or inside them, and the engine does not."""
    settings: dict[str, Any] = {"grid": 6, "kv_heads": 2, "text": kind}
    pair = rig(**settings)
    policy = blink.Policy.never(range(5))
    image, prompts = models.picture(5), [models.prompt(i, system="") for i in range(3)]
    with comparison.attached(pair.model, policy) as handle, torch.no_grad():
        pair.model(**models.batch(pair.model, [5, 6]))
        ratios = sorted(event.ratio for events in handle.trace for event in events)
    taus = ratios[6], ratios[3]
    modules = modules_of(pair.twin)
    runs = [
        Run(),
        *(
            Run(blink.Policy((0, 1, 3), high, low), modules)
            for high, low in itertools.product(taus, repeat=2)
        ),
    ]
    if kind not in ("phi3", "olmo2"):
        runs.append(Run(blink.Policy((1, 2), saliency="similarity", tau_exp=0.3), modules))
    counts = check(pair.model, image, prompts, runs, tokens=4)
    assert counts["compared"] > len(runs)
    assert counts["expand"]


@contextmanager
def counted(module: nn.Module) -> Iterator[Counter[str]]:
    """Inside, the tokens that `module` is called with, and its calls."""
    counts: Counter[str] = Counter()

    def count(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        counts.update(tokens=inputs[0].shape[:-1].numel(), calls=1)

    hook = module.register_forward_pre_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


def test_work_is_shared() -> None:
    """Would catch a trunk per question, text per policy, or an extension per row."""
    model = rig(**SMALL).model
    engine = Engine(model, models.processor(model))
    prompt, image = models.prompt(1, words=5, system=""), models.picture(1)
    always = [Run(blink.Policy([1], tau, 0)) for tau in np.linspace(0, 0.2, 20)]
    never = [Run(blink.Policy([1], 1, 0)), Run()]
    with counted(model.model.language_model.layers[2].mlp) as one:
        engine.answer(image, [prompt], never[:1], max_new_tokens=1)
    visual = model.config.image_seq_length
    text = len(models.tokenizer()(prompt)["input_ids"]) - 4  # <s> USER : and the image
    assert one["tokens"] == 3 + visual + text
    with counted(model.model.language_model.layers[2].mlp) as many:
        engine.answer(image, [prompt] * 2, always + never, max_new_tokens=1)
    assert many["tokens"] == 3 + visual + visual + 2 * 2 * text
    with counted(model.model.vision_tower.post_layernorm) as encoded:
        engine.answer(image, [prompt] * 3, never, max_new_tokens=1)
    assert encoded["calls"] == 1


def test_modules_are_the_same_by_identity_or_folder(tmp_path: Path) -> None:
    """Would catch a folder read once per run, and extensions taken for equal whose modules differ."""
    model = rig(**SMALL).model
    torch.manual_seed(0)
    width = model.config.text_config.hidden_size
    first, second = blink.TokenSR(width).requires_grad_(False), blink.TokenSR(width).requires_grad_(False)
    blink.save_token_sr({1: first}, tmp_path, backbone="any")
    policy, image = blink.Policy([1], 0, 0), models.picture(2)
    runs = [
        Run(policy, str(tmp_path)),
        Run(policy, tmp_path),
        Run(policy, {1: first}),
        Run(policy, {1: second}),
    ]
    engine = Engine(model, models.processor(model))
    with counted(model.model.language_model.layers[2].mlp) as counts:
        engine.answer(image, [models.prompt(3)], runs, max_new_tokens=1)
    with counted(model.model.language_model.layers[2].mlp) as alone:
        engine.answer(image, [models.prompt(3)], runs[:1], max_new_tokens=1)
    visual = model.config.image_seq_length
    assert counts["tokens"] - alone["tokens"] > 2 * visual
    assert counts["tokens"] - alone["tokens"] < 3 * visual
    check(model, image, [models.prompt(3)], runs, tokens=3)


@pytest.mark.parametrize("kind", ["int", "list", "none"])
def test_closing_tokens(kind: str) -> None:
    """Would catch a row that goes on behind its end, ends with its neighbours, or a list of ids not looked into."""
    model = rig(**SMALL).model
    prompts = [models.prompt(i, system="") for i in range(4)]
    runs, image = [Run(), Run(blink.Policy([1, 3], 0, 0))], models.picture(4)
    engine = Engine(model, models.processor(model))
    free = engine.answer(image, prompts, runs, max_new_tokens=6)
    end = free[0][1].ids[2]
    config, before = model.generation_config, model.generation_config.eos_token_id
    config.eos_token_id = {"int": end, "list": [2, end], "none": None}[kind]
    try:
        stopped = engine.answer(image, prompts, runs, max_new_tokens=6)
        check(model, image, prompts, runs, tokens=6)
    finally:
        config.eos_token_id = before
    if kind == "none":
        assert {len(answer.ids) for of_run in stopped for answer in of_run} == {6}
    else:
        assert stopped[0][1].ids == free[0][1].ids[: free[0][1].ids.index(end) + 1]
        assert len({len(answer.ids) for of_run in stopped for answer in of_run}) > 1


def test_one_token_and_long_answers() -> None:
    """Would catch an off-by-one at the shortest answer, and positions that drift in a long one."""
    model = rig(**SMALL).model
    runs = [Run(), Run(blink.Policy((0, 2, 3), schedule="cycle"), modules_of(model))]
    prompts = [models.prompt(i, system="") for i in (1, 2)]
    check(model, models.picture(6), prompts, runs, tokens=1)
    check(model, models.picture(6), prompts, runs, tokens=60)


def test_text_is_decoded_without_special_tokens() -> None:
    """Would catch ids and text that do not belong together."""
    model = rig(**SMALL).model
    processor = models.processor(model)
    [[answer]] = Engine(model, processor).answer(
        models.picture(1), [models.prompt(1)], [Run()], max_new_tokens=5
    )
    assert answer.text == processor.tokenizer.decode(answer.ids, skip_special_tokens=True)


def everything(engine: Engine, max_new_tokens: int = 3) -> list[list[Answer]]:
    """Many rows: three prompts under twelve runs."""
    prompts = [models.prompt(i, system="") for i in range(3)]
    runs = [
        Run(blink.Policy(layers, tau, 0.2))
        for layers in ((0, 2), (1, 3, 4), (2,))
        for tau in (0.25, 0.35, 0.5, 1)
    ]
    return engine.answer(models.picture(8), prompts, runs, max_new_tokens=max_new_tokens)


def same(left: list[list[Answer]], right: list[list[Answer]]) -> bool:
    """Whether ids and events agree, ratios left out."""
    bare = [
        [
            [(answer.ids, [(e.layer, e.region, e.action) for e in answer.events]) for answer in of_run]
            for of_run in answers
        ]
        for answers in (left, right)
    ]
    return bare[0] == bare[1]


def test_any_memory_gives_the_same_answers() -> None:
    """Would catch rows lost or doubled where they wait for each other, extensions forgotten while in use, and rows
    that run together once they have parted, though they do not fit.
    """
    model = rig(**SMALL).model
    rows: list[int] = []
    hook = model.model.language_model.layers[4].mlp.register_forward_pre_hook(
        lambda _, inputs: rows.append(len(inputs[0]))
    )
    try:
        plenty = everything(Engine(model, models.processor(model)))
        wide = max(rows)
        rows.clear()
        scarce = everything(Engine(model, models.processor(model), memory_gb=1e-6))
    finally:
        hook.remove()
    assert same(plenty, scarce)
    assert wide > 3
    assert set(rows) == {1}


def test_out_of_memory_halves_the_rows() -> None:
    """Would catch a run that dies where smaller pieces would do, and answers lost or doubled on the way."""
    model = rig(**SMALL).model
    plenty = everything(Engine(model, models.processor(model)))
    seen: list[int] = []

    def run_out(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows, tokens = inputs[0].shape[:2]
        seen.append(rows if tokens < 30 else 0)
        if seen[-1] > 4:
            raise torch.OutOfMemoryError("no room")

    hooks = [layer.mlp.register_forward_pre_hook(run_out) for layer in model.model.language_model.layers]
    try:
        engine = Engine(model, models.processor(model))
        halved = everything(engine)
        assert max(seen) > 4
        seen.clear()
        again = everything(engine)
        assert max(seen) <= 4
    finally:
        for hook in hooks:
            hook.remove()
    assert same(plenty, halved)
    assert same(plenty, again)


def test_one_prompt_alone() -> None:
    """Would catch an answer alone that differs from the shared one, goes on behind its end, or leaves Blink attached."""
    model = rig(**SMALL).model
    engine, image, prompt = (
        Engine(model, models.processor(model)),
        models.picture(4),
        models.prompt(1, system=""),
    )
    runs = [Run(), Run(blink.Policy([1, 3], 0, 0), modules_of(model))]
    for run in (*runs, runs[0]):
        want = reference(model, image, prompt, run, 6)
        free = engine.answer_alone(image, prompt, run, max_new_tokens=6)
        compare(free, want)
        model.generation_config.eos_token_id, before = free.ids[2], model.generation_config.eos_token_id
        try:
            stopped = engine.answer_alone(image, prompt, run, max_new_tokens=6)
        finally:
            model.generation_config.eos_token_id = before
        assert stopped.ids == free.ids[: free.ids.index(free.ids[2]) + 1]
        assert (
            stopped.text == engine.answer(image, [prompt], [run], max_new_tokens=len(stopped.ids))[0][0].text
        )


def test_sample_keys() -> None:
    """Would catch names that do not reach the draws, or reach another prompt's."""
    model = rig(**SMALL).model
    run = Run(blink.Policy((0, 2, 3), selector="random", schedule="random"))
    prompts = [models.prompt(i, system="") for i in range(2)]
    engine, image = Engine(model, models.processor(model)), models.picture(9)
    [answers] = engine.answer(image, prompts, [run], max_new_tokens=3, sample_keys=["a", "b"])
    for prompt, key, got in zip(prompts, "ab", answers, strict=True):
        compare(got, reference(model, image, prompt, run, 3, key))
    [unnamed] = engine.answer(image, prompts, [run], max_new_tokens=3)
    assert [answer.events for answer in unnamed] != [answer.events for answer in answers]


def test_it_leaves_the_model_alone() -> None:
    """Would catch a model that is no longer stock behind the engine, and an attached one that disturbs it."""
    model = rig(**SMALL).model
    before = {name: id(value) for name, value in vars(model.model.language_model).items()}
    plain = everything(Engine(model, models.processor(model)))
    assert {name: id(value) for name, value in vars(model.model.language_model).items()} == before
    with comparison.attached(model, blink.Policy([0], 0, 0)):
        assert same(everything(Engine(model, models.processor(model))), plain)


@pytest.mark.parametrize(
    ("prompts", "runs", "message"),
    [
        (["is there a dog?"], [Run()], "prompt 0 has 0 image tokens; expected one"),
        (["<image> a?", "<image> <image> a?"], [Run()], "prompt 1 has 2 image tokens; expected one"),
        (["USER: <image>"], [Run()], "prompt 0 ends at its image"),
        ([], [Run()], "0 prompts, 1 runs"),
        (["<image> a?"], [], "1 prompts, 0 runs"),
        (["<image> a?"], [Run(blink.Policy([9]))], "decoder layers 0 to 4"),
        (["<image> a?"], [Run(blink.Policy([1], patches=7))], "patches=7 does not fit"),
        (["<image> a?"], [Run(blink.Policy([1]), {2: nn.Identity()})], "layers .1. are scanned too"),
    ],
)
def test_mistakes_are_refused(prompts: list[str], runs: list[Run], message: str) -> None:
    """Would catch a prompt without its picture that is answered all the same, and a run that cannot fit."""
    model = rig(**SMALL).model
    with pytest.raises(ValueError, match=message):
        Engine(model, models.processor(model)).answer(models.picture(0), prompts, runs, max_new_tokens=1)


def test_changed_logits_are_refused() -> None:
    """Would catch a checkpoint whose generation config asks for what the engine does not do."""
    model = rig(**SMALL).model
    model.generation_config.repetition_penalty = 1.2
    try:
        with pytest.raises(ValueError, match="asks for RepetitionPenaltyLogitsProcessor"):
            everything(Engine(model, models.processor(model)))
    finally:
        model.generation_config.repetition_penalty = 1.0
    with pytest.raises(ValueError, match="memory_gb=0: expected a number above 0"):
        Engine(model, models.processor(model), memory_gb=0)
