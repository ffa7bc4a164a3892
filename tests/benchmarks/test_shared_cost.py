"""The cost of sharing on paper against what torch counts while the engine answers."""

import itertools
from collections.abc import Sequence

import pytest

from benchmarks.shared_cost import Asked, shared
from blink import Engine, Policy, Run, TokenSR
from blink.evaluation.answering.cost import Cost, decoder_layer, head, token_sr, vision
from blink.inference.engine import Answer
from blink.inference.policy import Event
from blink.model.dimensions import Dimensions
from tests import models
from tests.flops import counted_forward

SYSTEM = "yes no yes"


def by_engine(model: models.Model, prompts: Sequence[str], runs: Sequence[Run], answer: int = 3) -> int:
    """FLOPs that torch counted while the engine answered; asserts that they are those on paper, and little more."""
    dims = Dimensions.of(model)
    engine = Engine(model, models.processor(model))
    answers: list[list[Answer]] = []
    found = counted_forward(
        lambda: answers.extend(engine.answer(models.picture(1), prompts, runs, max_new_tokens=answer))
    )
    tokenizer = models.processor(model).tokenizer
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    start = ids[0].index(model.config.image_token_id)
    asked = []
    for run, of_run in zip(runs, answers, strict=True):
        patches = 2 if run.policy is None else run.policy.patches
        interpolated = run.policy is None or run.policy.interpolate
        for number, one in enumerate(of_run):
            asked.append(
                Asked(
                    question=number,
                    text=len(ids[number]) - start - 1,
                    events=one.events,
                    answer=len(one.ids),
                    extension=None if interpolated else dims.visual // patches**2,
                    kind=patches,
                )
            )
    expander = token_sr(dims) if runs[-1].token_sr else Cost()
    floor = shared(dims, start + dims.visual, asked, expander=expander).flops
    assert floor <= found <= 1.1 * floor  # more in attention alone: columns that rows of one call do not see
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kv_heads", [None, 2])
def test_a_grid_of_thresholds(kv_heads: int | None) -> None:
    """Would catch a text pass per policy, or extensions run too far or not far enough."""
    model = models.llava(grid=6, kv_heads=kv_heads)
    prompts = [models.prompt(seed, words=6, system=SYSTEM) for seed in range(3)]
    modules = {layer: TokenSR(48) for layer in range(5)}
    grid = itertools.product((0.2, 0.35, 0.5), repeat=2)
    runs = [Run(Policy(layers=(0, 2, 3, 4), tau_exp=up, tau_drop=down), modules) for up, down in grid]
    whole = by_engine(model, prompts, runs)
    assert whole < sum(by_engine(model, prompts, [run]) for run in runs) / 3


def test_regions_as_they_are() -> None:
    """Would catch an extension's length that is taken for the grid's, and kinds that are taken for one."""
    model = models.llava(grid=6)
    prompts = [models.prompt(seed, words=5, system=SYSTEM) for seed in range(2)]
    cut = [
        Run(Policy(layers=(1, 2), tau_exp=0.2, tau_drop=0.3, patches=p, interpolate=False)) for p in (2, 3)
    ]
    by_engine(model, prompts, cut)


EXPAND_DROP = (Event(1, 0.9, 2, "expand"), Event(3, 0.1, 0, "drop"))
EXPAND_KEEP = (Event(1, 0.9, 2, "expand"), Event(3, 0.5, 2, "keep"))
NOTHING = (Event(1, 0.4, 2, "keep"), Event(3, 0.1, 2, "drop"))


def test_what_is_shared() -> None:
    """Would catch trunk, extension or text counted twice, by hand on the parts."""
    dims = Dimensions.of(models.llava())
    before, text, V = dims.visual + 9, 7, dims.visual
    one = shared(dims, before, [Asked("q", text, EXPAND_DROP)]).flops
    assert shared(dims, before, [Asked("q", text, EXPAND_DROP)] * 2).flops == one
    two = shared(dims, before, [Asked("q", text, EXPAND_DROP), Asked("q", text, EXPAND_KEEP)]).flops
    longer = decoder_layer(dims, text, before + V + text).flops
    last = (
        decoder_layer(dims, 1, before + V + text).flops + 2 * text * 48 * 48 * 3
    )  # only the last token's output is read
    top = 2 * V * 48 * 48 * 3  # of the last layer only keys and values are asked for
    assert two - one == top + longer + last + head(dims).flops
    idle = shared(dims, before, [Asked("q", text, NOTHING), Asked("q", text, NOTHING[:1])]).flops
    assert idle == shared(dims, before, [Asked("q", text, NOTHING)]).flops


def test_weights_move_once() -> None:
    """Would catch bytes that grow by the weights with every question."""
    dims = Dimensions.of(models.llava())
    one, two = (shared(dims, 150, [Asked(q, 7, answer=3) for q in range(count)]).bytes for count in (1, 2))
    assert one == two
    assert one > 4 * dims.layers * dims.layer_weights * dims.itemsize + vision(dims).bytes
