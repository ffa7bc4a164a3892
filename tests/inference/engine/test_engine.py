"""The engine against attach + generate, one prompt and one run at a time, and what it saves."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import blink
from blink.inference.engine import Engine
from blink.inference.run import Run
from tests import models
from tests.inference.engine.against_attach import SMALL, check, compare, everything, reference, same
from tests.inference.oracle import comparison
from tests.inference.oracle.comparison import Sharpen, modules_of, rig

SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("llava", SMALL),
    ("llava", {"grid": 6, "attention": "eager", "attention_bias": True}),
    ("llava_next", {"kv_heads": 2, "text": "mistral"}),
    ("llava", {"grid": 12}),
    ("llava_next", {"attention": "eager"}),
]

SEEDS = range(8)


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


def test_runs_of_equal_events_share_them() -> None:
    """Would catch a sweep that keeps objects for each of its runs, which Python then looks through again and again."""
    pair = rig("llava", **SMALL)
    levels = np.linspace(0.2, 0.6, 5)
    runs = [
        Run(blink.Policy([1, 2, 3], tau_exp=up, tau_drop=down))
        for up, down in itertools.product(levels, levels)
    ]
    prompts = [models.prompt(i) for i in range(3)]
    answers = Engine(pair.model, models.processor(pair.model)).answer(
        models.picture(5), prompts, runs, max_new_tokens=1
    )
    for of_prompt in zip(*answers, strict=True):
        histories = [answer.events for answer in of_prompt]
        assert 1 < len(set(histories)) < len(runs)
        assert len({id(history) for history in histories}) == len(set(histories))


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


def test_it_leaves_the_model_alone() -> None:
    """Would catch a model that is no longer stock behind the engine, and an attached one that disturbs it."""
    model = rig(**SMALL).model
    before = {name: id(value) for name, value in vars(model.model.language_model).items()}
    plain = everything(Engine(model, models.processor(model)))
    assert {name: id(value) for name, value in vars(model.model.language_model).items()} == before
    with comparison.attached(model, blink.Policy([0], 0, 0)):
        assert same(everything(Engine(model, models.processor(model))), plain)
