"""FLOPs and memory traffic of every part of the work, computed from the sizes of a model.

FLOPs are those of matrix products and convolutions, two per multiplication and addition, as
`torch.utils.flop_counter` counts them: attention as the full rectangle of queries and keys, though a causal kernel
may skip half of it; norms, activations, rotary embeddings, softmax and the resizing of positions and tiles left out. Bytes are what must be moved at
least: each weight once per call, keys and values written once and read once. Activations are left out.

Letters: T new tokens, M columns of keys that they attend to (their own included), X tokens of an extension.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from blink.inference.policy import Event, Policy, living
from blink.model.dimensions import Dimensions
from blink.model.families import Grid
from blink.model.token_sr import Design, TokenSR, module_cost, region_box


@dataclass(frozen=True)
class Cost:
    """FLOPs, and the bytes that must be moved at least. Costs add up and multiply with whole numbers."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.flops * times, self.bytes * times)

    __rmul__ = __mul__


NOTHING = Cost()


def key_value_bytes(dims: Dimensions, tokens: int) -> int:
    """Memory of the keys and values of `tokens` tokens in one layer."""
    return 2 * tokens * dims.key_heads * dims.head * dims.itemsize


def decoder_layer(dims: Dimensions, tokens: int, columns: int, rows: int = 1) -> Cost:
    """One decoder layer on T = `tokens` new tokens of each row, which attend to M = `columns` keys."""
    attention = 4 * tokens * columns * dims.heads * dims.head
    return Cost(
        rows * (2 * tokens * dims.layer_weights + attention),
        dims.layer_weights * dims.itemsize + rows * key_value_bytes(dims, tokens + columns),
    )


def head(dims: Dimensions, rows: int = 1) -> Cost:
    """The vocabulary projection of one token per row."""
    weights = dims.hidden * dims.vocabulary
    return Cost(2 * rows * weights, weights * dims.itemsize)


def vision(dims: Dimensions, views: int | Sequence[Grid] = 1) -> Cost:
    """Vision tower and projector on the views of a picture.

    Args:
        views: rows and columns of patches in each; or how many there are, where all are alike.
    """
    tower = dims.tower
    if isinstance(views, int):
        assert tower.patches is not None, "the views of this family differ in size"
        views = [tower.patches] * views
    flops = 0
    for view in views:
        patches = view[0] * view[1]
        tokens = patches + tower.class_tokens
        visual = patches // tower.merge**2 + tower.projected
        pairs = (tower.layers - tower.windowed) * tokens**2
        if tower.windowed:
            pairs += tower.windowed * sum(inside**2 for inside in tower.windows(view))
        flops += 2 * patches * tower.patch_weights + 2 * visual * tower.projector_weights
        flops += 2 * tower.layers * tokens * tower.layer_weights + 4 * pairs * tower.width
        if (
            tower.pooling_weights
        ):  # keys and values of all tokens, attention of one query, and the rest on one token
            pair = 2 * tower.width**2
            flops += 2 * tokens * pair + 4 * tokens * tower.width + 2 * (tower.pooling_weights - pair)
    weights = tower.patch_weights + tower.layers * tower.layer_weights + tower.projector_weights
    return Cost(flops, (weights + tower.pooling_weights) * dims.itemsize)


def scan(dims: Dimensions, columns: int, saliency: str = "attention", visual: int | None = None) -> Cost:
    """One row's scan at one layer (Eq. 1 and 2).

    By attention it is one row of the layer's own map, whose query and keys are at hand; by similarity, the query and key
    projections without rotary embedding, and one product.

    Args:
        columns: keys that the last prompt token may see.
        saliency: as in the policy; "similarity" looks at the visual tokens alone.
        visual: V of the base view; None: as every picture has.
    """
    if saliency == "attention":
        return Cost(
            2 * columns * dims.heads * dims.head, columns * dims.key_heads * dims.head * dims.itemsize
        )
    query, key = dims.hidden * dims.heads * dims.head, dims.hidden * dims.key_heads * dims.head
    V = dims.visual if visual is None else visual
    row = V * dims.head * dims.key_heads
    return Cost(2 * (query + V * key + row), (query + key) * dims.itemsize)


def projections(dims: Dimensions, columns: int) -> Cost:
    """Query, key and value projections of some tokens at one layer.

    A layer whose scan changes the sequence is left at its attention and runs again, so these are computed twice.
    """
    weights = dims.hidden * dims.head * (dims.heads + 2 * dims.key_heads)
    return Cost(2 * columns * weights, weights * dims.itemsize)


def token_sr(
    dims: Dimensions,
    module: Design | None = None,
    visual: int | None = None,
    view: Grid | None = None,
    *,
    encoding: bool = True,
) -> Cost:
    """One TokenSR on one grid of tokens (App. A.1), and what it needs beside the region: the encoded crop of `conditioned`.

    Counted on the resized grid, as the paper has it; of a wide module's first convolution a CPU takes fewer
    (`model/token_sr/resizing.py`).

    Args:
        module: on whatever device; None: the paper's, of the model's width.
        visual: V tokens of the grid; None: as every picture has.
        view: rows and columns of patches of a crop; None: as of every picture.
        encoding: count that of a crop, too.
    """
    module = _papers(dims) if module is None else module
    counted = module_cost(module, dims.visual if visual is None else visual)
    cost = Cost(counted.flops, counted.weights * dims.itemsize)
    return cost + vision(dims, 1 if view is None else [view]) if module.needs_crop and encoding else cost


class Crop(NamedTuple):
    """What an encoded region costs.

    Attributes:
        encoding: of vision tower and projector, once a region.
        tokens: that go through the layers below the expansion, the prompt's prefix among them; 0 where a module takes the
            crop as it was projected.
    """

    encoding: Cost
    tokens: int = 0


def extension_tokens(policy: Policy, grid: Grid) -> tuple[int, ...]:
    """X, tokens of the extension of each region: the whole grid's, or the region's own where it is not resized."""
    boxes = [region_box(region, policy.patches, grid) for region in range(policy.patches**2)]
    return tuple(grid[0] * grid[1] if policy.interpolate else box.height * box.width for box in boxes)


def prompt(
    dims: Dimensions,
    tokens: int,
    events: Sequence[Event] = (),
    *,
    extension: int | Sequence[int] | None = None,
    expander: Cost = NOTHING,
    crop: Crop | None = None,
    saliency: str = "attention",
    visual: int | None = None,
) -> Cost:
    """One prompt as `attach` runs it: [system; visual; extension; text] together, and the last token's logits.

    Vision tower and projector are not in it.

    Args:
        tokens: of the prompt, visual ones included.
        events: of this prompt, one per scanned layer; none is the stock model.
        extension: X, tokens of an extension, or of that of each region, as `extension_tokens` counts them; None: the whole
            grid's.
        expander: of one extension of the whole grid, e.g. `token_sr(dims)`; nothing for Blink-interp.
        crop: of an encoded region, which is the extension or goes to the module; None: none is encoded.
        saliency: of the policy.
        visual: V of the base view; None: as every picture has.
    """
    lengths = [tokens + X for X in _living_tokens(dims, events, extension, visual)]
    total = head(dims)
    for columns in lengths:
        total += decoder_layer(dims, columns, columns)
    reached: dict[int, int] = {}
    for event in events:
        before = lengths[event.layer - 1] if event.layer else tokens
        total += scan(dims, before, saliency, visual)
        if event.action == "expand" and expander != NOTHING:
            V = dims.visual if visual is None else visual
            X = _tokens_of(event.region, extension, V)
            total += Cost(expander.flops * X // V, expander.bytes)
        if event.action == "expand" and crop is not None:
            # a region that was expanded before goes on from there
            begun = event.region in reached
            total += NOTHING if begun else crop.encoding
            if crop.tokens:
                below = event.layer - reached.get(event.region, 0)
                total += below * decoder_layer(dims, crop.tokens, crop.tokens)
            reached[event.region] = event.layer
        # the scan changed the sequence: the layer stops at its attention and runs again, see `projections`
        if saliency == "attention" and (
            event.action == "expand" or (event.action == "drop" and before > tokens)
        ):
            total += projections(dims, before)
    return total


def decode(
    dims: Dimensions,
    tokens: int,
    steps: int,
    events: Sequence[Event] = (),
    extension: int | Sequence[int] | None = None,
    visual: int | None = None,
) -> Cost:
    """`steps` single-token steps behind a prompt of `tokens` tokens, each with its logits.

    An answer of n tokens takes n - 1 of them: its first token comes from the prompt pass. The others as in `prompt`.
    """
    total = head(dims) * steps
    for X in _living_tokens(dims, events, extension, visual):
        first = tokens + X + 1
        columns = steps * first + steps * (steps - 1) // 2  # summed over the steps
        total += Cost(
            2 * steps * dims.layer_weights + 4 * columns * dims.heads * dims.head,
            steps * dims.layer_weights * dims.itemsize + key_value_bytes(dims, columns + steps),
        )
    return total


def two_passes(
    dims: Dimensions,
    tokens: int,
    steps: int,
    *,
    zoomed: bool,
    crop: Cost,
    saliency: str = "attention",
    visual: int | None = None,
) -> Cost:
    """A prompt that is looked at first and then, if it is zoomed, run anew with a crop's tokens behind the picture's (`answering/zoom.py`).

    With `steps` steps of decoding behind the last pass; the picture's own encoding is not in it.

    Args:
        tokens: of the prompt, visual ones included.
        zoomed: whether there was a second pass.
        crop: its encoding by vision tower and projector.
        saliency, visual: as in `prompt`.
    """
    V = dims.visual if visual is None else visual
    cost = prompt(dims, tokens) + scan(dims, tokens, saliency, V)
    if zoomed:
        tokens += V
        cost += crop + prompt(dims, tokens)
    return cost + decode(dims, tokens, steps)


def _living_tokens(
    dims: Dimensions, events: Sequence[Event], extension: int | Sequence[int] | None, visual: int | None
) -> list[int]:
    """Tokens of the extension that each layer runs with; 0 where none lives."""
    alive = living(events, dims.layers)
    if not any(alive):
        return [0] * len(alive)
    V = dims.visual if visual is None else visual
    return [0 if one is None else _tokens_of(one[1], extension, V) for one in alive]


def _tokens_of(region: int, extension: int | Sequence[int] | None, visual: int) -> int:
    """X of the extension of a region, as `prompt` takes it."""
    if extension is None:
        return visual
    return extension if isinstance(extension, int) else extension[region]


def training_step(
    dims: Dimensions,
    layers: Collection[int],
    prefix: int,
    images: int,
    *,
    module: Design | None = None,
    cached: bool = False,
) -> Cost:
    """One batch of TokenSR training: five views per image through the frozen trunk, four pairs through each module.

    Forward and backward of the modules, whose input needs no gradient. The optimizer is left out.

    Args:
        layers: that are trained.
        prefix: tokens before the image.
        images: in the batch.
        module: that is trained; None: the paper's, of the model's width.
        cached: the trunk's features are read, not computed.
    """
    trunk, pairs = prefix + dims.visual, 4 * images
    total = NOTHING if cached else vision(dims, 5 * images)
    for _ in range(0 if cached else max(layers)):
        total += decoder_layer(dims, trunk, trunk, rows=5 * images)
    counted = module_cost(_papers(dims) if module is None else module, dims.visual)
    return total + len(set(layers)) * Cost(pairs * counted.trained_flops, 3 * counted.weights * dims.itemsize)


def _papers(dims: Dimensions) -> Design:
    """The paper's TokenSR for a model, without weights."""
    with torch.device("meta"):
        return TokenSR(dims.hidden)
