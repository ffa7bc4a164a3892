"""Regions encoded anew, and regions that hold a box, against the literal Algorithm 1, for every family."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.cases import CASES, SCHEMES, SIZES, named, scheme_of
from tests.inference.oracle.comparison import Rig, attached, check_events, check_logits, family_of, samples
from tests.inference.oracle.crops import Original

ENCODE: dict[str, Any] = {"source": "encode", "schedule": "cycle"}


class Prompts(NamedTuple):
    """A batch of different pictures and prompts, and where each comes from."""

    inputs: dict[str, Tensor]
    originals: list[Original]


def prompts(pair: Rig, seeds: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Prompts:
    """What `models.batch` makes of seeds, beside the originals; boxes are drawn, some of them across regions."""
    processor = models.processor(pair.model)
    inputs = models.batch(pair.model, list(seeds), list(sizes))
    originals = []
    for seed, (width, height) in zip(seeds, sizes, strict=True):
        left, top = 7 * seed % (width - 9), 11 * seed % (height - 9)
        box = (left, top, min(width, left + 9 + seed % 20), min(height, top + 9 + seed % 13))
        image, text = models.picture(seed, (width, height)), models.prompt(seed, processor=processor)
        originals.append(Original(image, text, box))
    return Prompts(inputs, originals)


class Conditioned(nn.Module):
    """A stand-in for a module that sees the picture, the region's place and its encoded crop, all of them."""

    needs_context = True
    needs_crop = True

    def forward(self, tokens_BdHW: Tensor, context: Any) -> Tensor:
        height, width = tokens_BdHW.shape[2:]
        place = torch.tensor([[box.top + 2 * box.left + box.height] for box in context.boxes])
        around_Bd = context.visual_BdGg.mean((2, 3)) * place
        slope = torch.linspace(-1, 1, height)[:, None] + torch.linspace(0, 1, width)
        return tokens_BdHW * slope + 0.7 * context.crop_BdHW + 0.1 * around_Bd[..., None, None]


def check(
    pair: Rig,
    batch: Prompts,
    plan: oracle.Plan,
    generate: dict[str, Any] | None = None,
    modules: dict[int, nn.Module] | None = None,
) -> int:
    """Compare an attached forward, or `generate`, with the oracle row by row: how many rows were not too close to call."""
    processor = models.processor(pair.model)
    inputs, originals = batch
    with attached(pair.model, plan, modules) as handle, torch.no_grad(), ExitStack() as stack:
        stack.enter_context(handle.pictures([original.image for original in originals], processor))
        if plan.selector == "box":
            stack.enter_context(handle.boxes([original.box for original in originals]))
        if generate is None:
            logits = pair.model(**inputs).logits
        else:
            written = pair.model.generate(**inputs, **generate)[:, inputs["input_ids"].shape[1] :]
        trace = handle.trace
    assert len(trace) == len(originals)
    compared = 0
    for row, (sample, original) in enumerate(zip(samples(pair.twin, inputs), originals, strict=True)):
        found = oracle.run(pair.twin, sample.ids_S, sample.picture, plan, modules, original=original)
        if comparison.undecided(found):
            continue
        check_events(trace[row], found, family_of(pair.model))
        compared += 1
        if generate is None:
            real_S = inputs["attention_mask"][row].bool()
            check_logits(logits[row][real_S], found.logits_SW, family_of(pair.model))
            continue
        count = generate["max_new_tokens"]
        ids, lead = oracle.generate(
            pair.twin, sample.ids_S, sample.picture, plan, None, count, original=original
        )
        if lead > comparison.MARGIN:
            assert written[row].tolist()[: len(ids)] == ids
    return compared


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", CASES)
def test_encoded_regions(case: str, scheme: str) -> None:
    """Catches a crop at other edges or of another row, a wrong prefix, layer or position, tiles that stay, and deepstack
    forgotten: three pictures of different shapes in one batch, expanded, dropped and expanded again."""
    pair = named(case)
    batch = prompts(pair, [201, 202, 203], SIZES[:3])
    assert check(pair, batch, oracle.Plan((0, 2, 4), **ENCODE, positions=scheme, patches=2)) >= 2


@pytest.mark.parametrize("case", CASES)
def test_thresholds_and_uneven_regions(case: str) -> None:
    """Catches rows of a batch that fire at different layers and take each other's crops, and regions of uneven size."""
    pair = named(case)
    family, settings = CASES[case]
    found = comparison.ratios(family, 3, "attention", SIZES, **settings)
    middle = float(found[len(found) // 2]) * 9 / 4
    plan = oracle.Plan(
        (1, 2, 3, 4), middle, 0.9 * middle, patches=3, source="encode", positions=scheme_of(case, 1)
    )
    assert check(pair, prompts(pair, [211, 212, 213, 214], SIZES[1:]), plan) >= 3


@pytest.mark.parametrize("source", ["encode", "coarse"])
@pytest.mark.parametrize("case", CASES)
def test_regions_that_hold_a_box(case: str, source: str) -> None:
    """Catches the hottest region taken for the box's, a drop recorded there, and pixels of another picture's size."""
    pair = named(case)
    plan = oracle.Plan(
        (1, 2, 4), schedule="cycle", patches=3, source=source, selector="box", positions=scheme_of(case)
    )
    batch = prompts(pair, [221, 222, 223], SIZES[2:])
    assert check(pair, batch, plan) >= 2
    elsewhere = [
        step.region != step.hottest
        for sample, original in zip(samples(pair.twin, batch.inputs), batch.originals, strict=True)
        for step in oracle.run(pair.twin, sample.ids_S, sample.picture, plan, original=original).steps
    ]
    assert sum(elsewhere) >= 2


@pytest.mark.parametrize("case", CASES)
def test_modules_that_see_the_crop(case: str) -> None:
    """Catches a crop as it enters another layer, of another row or region, and a context of other rows."""
    pair = named(case)
    modules: dict[int, nn.Module] = {layer: Conditioned() for layer in (0, 2, 4)}
    plan = oracle.Plan((0, 2, 4), schedule="cycle", patches=3, positions=scheme_of(case))
    assert check(pair, prompts(pair, [241, 242, 243], SIZES[:3]), plan, modules=modules) >= 2


@pytest.mark.parametrize("case", CASES)
def test_generate(case: str) -> None:
    """Catches pictures that are lost where `generate` has encoded them before, and tokens that do not see the crop."""
    pair = named(case)
    plan = oracle.Plan((0, 3), 0.0, 0.0, source="encode", selector="box", positions=scheme_of(case))
    settings = {"max_new_tokens": 3, "do_sample": False}
    assert check(pair, prompts(pair, [231, 232], SIZES[3:]), plan, settings) == 2
