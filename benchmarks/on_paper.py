"""The benchmarks at full size, computed and not measured: `python -m benchmarks.on_paper`.

What one question costs the stock model and Blink, alone and when all questions about a picture share its trunk.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from rich.console import Console

from benchmarks.common import bare_command_line
from benchmarks.report import paper_table
from benchmarks.shared_cost import Asked, shared
from blink.evaluation.answering.cost import Crop, decode, prompt, token_sr, two_passes, vision
from blink.evaluation.planning.presets import resolve
from blink.inference.policy import Event
from blink.model.backbone import Backbone
from blink.model.dimensions import Dimensions
from blink.model.families import ARCHITECTURES
from blink.model.image_inputs import PictureShape, PictureShapes
from tests import models

PREFIX = 35
"""Tokens before the picture in LLaVA's conversation, the start token included."""

HEADER = (
    "backbone",
    "benchmark",
    "questions per picture",
    "stock, TFLOP per question",
    "Blink alone / stock",
    "stock shared / stock",
    "Blink shared / stock",
    "stock loop over Blink shared, times",
)

WAYS_HEADER = (
    "way to see a region closer",
    "layer",
    "TFLOP per question",
    "over stock",
    "TFLOP to make the tokens",
)

WAYS_ASSUMED = (
    "LLaVA-1.5-7B, one POPE question answered alone, an extension that lives from its layer to the end: interpolated, by the "
    "paper's TokenSR, by the region of the picture encoded anew and taken up to the layer; or two passes, the second with the "
    "crop behind the picture."
)

ASSUMED = (
    "Assumed: 640 x 480 pictures; an extension with TokenSR in every answer, born at the first scanned layer of the "
    "preset and alive to the end, its region drawn evenly from four; 35 tokens before the picture; texts of 26 (POPE), "
    "32 (MME), 30 (GQA) and 90 (MMBench) tokens; answers of two tokens."
)


class Load(NamedTuple):
    """A benchmark as a load: questions about one picture (rounded), tokens of one text."""

    name: str
    preset: str
    questions: int
    text: int


LOADS = (
    Load("POPE", "pope", 18, 26),
    Load("MME", "mme", 2, 32),
    Load("GQA", "gqa", 32, 30),
    Load("MMBench", "mmbench", 4, 90),
)


def backbones() -> dict[str, tuple[str, Dimensions, PictureShape]]:
    """Name -> (family of presets, numbers, what becomes of a picture)."""
    small, tiled = outline("llava15"), outline("llava_next")
    width, dims = 5120, Dimensions.of(small.model)
    large = replace(
        dims,
        hidden=width,
        layers=40,
        heads=40,
        key_heads=40,
        layer_weights=4 * width**2 + 3 * width * 13824,
        tower=replace(dims.tower, projector_weights=1024 * width + width**2),
    )
    return {
        "LLaVA-1.5-7B": ("llava15_7b", dims, shape(small)),
        "LLaVA-1.5-13B": ("llava15_13b", large, shape(small)),
        "LLaVA-NeXT-7B": ("llava_next_7b", Dimensions.of(tiled.model), shape(tiled)),
    }


def outline(family: str) -> Backbone:
    """A published model without weights, and its processor."""
    config = models.published_config(family)
    with torch.device("meta"):
        model = ARCHITECTURES[config.model_type]._from_config(config)
    return Backbone(model, models.published_processor(tiled=family == "llava_next"))


def shape(backbone: Backbone) -> PictureShape:
    """What becomes of the assumed picture."""
    return PictureShapes(backbone)((640, 480))


def lines() -> Iterator[tuple[str, ...]]:
    """The table's cells."""
    for name, (family, dims, picture_shape) in backbones().items():
        views, before = len(picture_shape.views), PREFIX + picture_shape.tokens
        for load in LOADS:
            scan, tokens = resolve(family, load.preset), before + load.text
            picture = vision(dims, views).flops
            stock = picture + (prompt(dims, tokens) + decode(dims, tokens, 1)).flops
            first, *others = scan.layers

            def events(region: int, first: int = first, others: list[int] = others) -> tuple[Event, ...]:
                kept = (Event(layer, 0.5, region, "keep") for layer in others)
                return (Event(first, 1.0, region, "expand"), *kept)

            one = events(0)
            blink = picture + (prompt(dims, tokens, one, expander=token_sr(dims))).flops
            blink += decode(dims, tokens, 1, one).flops
            asked = [Asked(i, load.text, events(i % 4), 2) for i in range(load.questions)]
            plain = [Asked(i, load.text, (), 2) for i in range(load.questions)]
            together = shared(dims, before, asked, expander=token_sr(dims), views=views).flops
            stock_together = shared(dims, before, plain, views=views).flops
            loop = load.questions * stock
            yield (
                name,
                load.name,
                str(load.questions),
                f"{stock / 1e12:.2f}",
                f"{blink / stock:.2f}",
                f"{stock_together / loop:.3f}",
                f"{together / loop:.3f}",
                f"{loop / together:.1f}",
            )


def ways() -> Iterator[tuple[str, ...]]:
    """What it costs to see one region closer, by way and layer."""
    _, dims, picture_shape = backbones()["LLaVA-1.5-7B"]
    picture, crop = vision(dims, len(picture_shape.views)), Crop(vision(dims), PREFIX + dims.visual)
    tokens = PREFIX + picture_shape.tokens + LOADS[0].text
    stock = (picture + prompt(dims, tokens) + decode(dims, tokens, 1)).flops
    for layer in (2, 12, 18):
        events = (Event(layer, 1.0, 0, "expand"),)
        plain = prompt(dims, tokens, events).flops
        ways = {
            "interpolation": prompt(dims, tokens, events),
            "TokenSR": prompt(dims, tokens, events, expander=token_sr(dims)),
            "encoded crop": prompt(dims, tokens, events, crop=crop),
        }
        for name, cost in ways.items():
            whole = (picture + cost + decode(dims, tokens, 1, events)).flops
            made = cost.flops - plain
            yield name, str(layer), f"{whole / 1e12:.2f}", f"{whole / stock:.2f}", f"{made / 1e12:.2f}"
    zoom = (picture + two_passes(dims, tokens, 1, zoomed=True, crop=vision(dims))).flops
    made = vision(dims).flops
    yield "zoom, two passes", "0", f"{zoom / 1e12:.2f}", f"{zoom / stock:.2f}", f"{made / 1e12:.2f}"


if __name__ == "__main__":
    bare_command_line("on_paper", __doc__).parse_args()
    table, _ = paper_table(HEADER, lines())
    Console().print(table)
    Console().print(ASSUMED)
    table, _ = paper_table(WAYS_HEADER, ways())
    Console().print(table)
    Console().print(WAYS_ASSUMED)
