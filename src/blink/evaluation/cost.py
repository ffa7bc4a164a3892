"""FLOPs and memory traffic of every part of the work, computed from a model's config.

FLOPs are those of matrix products and convolutions, two per multiplication and addition, as
`torch.utils.flop_counter` counts them: attention as the full rectangle of queries and keys, though a causal kernel
may skip half of it; norms, activations, rotary embeddings and softmax left out. Bytes are what must be moved at
least: each weight once per call, keys and values written once and read once. Activations are left out. `Meter` counts
a question that was answered; what it was answered together with makes no difference, so that runs compare.

Letters: T new tokens, M columns of keys that they attend to (their own included), X tokens of an extension.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import nn

from blink.inference.policy import Event, Policy, living
from blink.model.dimensions import Dimensions, image_tokens, tiles
from blink.model.token_sr import TokenSR
from blink.model.token_sr_files import token_sr_config


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


def vision(dims: Dimensions, views: int = 1) -> Cost:
    """Vision tower and projector on `views` pictures or tiles."""
    tokens, width = dims.vision_tokens, dims.vision_hidden
    patches = 3 * dims.patch**2 * width
    layer = 4 * width**2 + 2 * width * dims.vision_mlp
    projector = dims.features * dims.hidden + dims.hidden**2
    projected = dims.visual * projector
    flops = 2 * (dims.visual * patches + projected)
    flops += dims.vision_layers * (2 * tokens * layer + 4 * tokens**2 * width)
    return Cost(views * flops, (patches + dims.vision_layers * layer + projector) * dims.itemsize)


def scan(dims: Dimensions, columns: int, saliency: str = "attention") -> Cost:
    """One row's scan at one layer (Eq. 1 and 2).

    By attention it is one row of the layer's own map, whose query and keys are at hand; by similarity, the query and key
    projections without rotary embedding, and one product.

    Args:
        columns: keys that the last prompt token may see.
        saliency: as in the policy; "similarity" looks at the visual tokens alone.
    """
    if saliency == "attention":
        return Cost(
            2 * columns * dims.heads * dims.head, columns * dims.key_heads * dims.head * dims.itemsize
        )
    query, key = dims.hidden * dims.heads * dims.head, dims.hidden * dims.key_heads * dims.head
    row = dims.visual * dims.head * dims.key_heads
    return Cost(2 * (query + dims.visual * key + row), (query + key) * dims.itemsize)


def projections(dims: Dimensions, columns: int) -> Cost:
    """Query, key and value projections of some tokens at one layer.

    A layer whose scan changes the sequence is left at its attention and runs again, so these are computed twice.
    """
    weights = dims.hidden * dims.head * (dims.heads + 2 * dims.key_heads)
    return Cost(2 * columns * weights, weights * dims.itemsize)


def token_sr(
    dims: Dimensions, hidden: Sequence[int] | None = None, kernels: Sequence[int] = (5, 3, 1)
) -> Cost:
    """One TokenSR on one grid of tokens (App. A.1); the arguments are those of `blink.TokenSR`."""
    weights = sum(_convolutions(dims, hidden, kernels))
    return Cost(2 * dims.visual * weights, weights * dims.itemsize)


def prompt(
    dims: Dimensions,
    tokens: int,
    events: Sequence[Event] = (),
    *,
    extension: int | None = None,
    expander: Cost = NOTHING,
    saliency: str = "attention",
) -> Cost:
    """One prompt as `attach` runs it: [system; visual; extension; text] together, and the last token's logits.

    Vision tower and projector are not in it.

    Args:
        tokens: of the prompt, visual ones included.
        events: of this prompt, one per scanned layer; none is the stock model.
        extension: X, tokens of an extension; None: the whole grid.
        expander: of one extension, e.g. `token_sr(dims)`; nothing for Blink-interp.
        saliency: of the policy.
    """
    X = dims.visual if extension is None else extension
    alive = living(events, dims.layers)
    lengths = [tokens + (X if extended else 0) for extended in alive]
    total = head(dims)
    for columns in lengths:
        total += decoder_layer(dims, columns, columns)
    for event in events:
        before = lengths[event.layer - 1] if event.layer else tokens
        total += scan(dims, before, saliency)
        total += expander if event.action == "expand" else NOTHING
        # the scan changed the sequence: the layer stops at its attention and runs again, see `projections`
        if saliency == "attention" and (
            event.action == "expand" or (event.action == "drop" and before > tokens)
        ):
            total += projections(dims, before)
    return total


def decode(
    dims: Dimensions, tokens: int, steps: int, events: Sequence[Event] = (), extension: int | None = None
) -> Cost:
    """`steps` single-token steps behind a prompt of `tokens` tokens, each with its logits.

    An answer of n tokens takes n - 1 of them: its first token comes from the prompt pass.
    """
    X = dims.visual if extension is None else extension
    total = head(dims) * steps
    for alive in living(events, dims.layers):
        first = tokens + (X if alive else 0) + 1
        columns = steps * first + steps * (steps - 1) // 2  # summed over the steps
        total += Cost(
            2 * steps * dims.layer_weights + 4 * columns * dims.heads * dims.head,
            steps * dims.layer_weights * dims.itemsize + key_value_bytes(dims, columns + steps),
        )
    return total


def training_step(
    dims: Dimensions,
    layers: Collection[int],
    prefix: int,
    images: int,
    *,
    hidden: Sequence[int] | None = None,
    kernels: Sequence[int] = (5, 3, 1),
    cached: bool = False,
) -> Cost:
    """One batch of TokenSR training: five views per image through the frozen trunk, four pairs through each module.

    Forward and backward of the modules; the first convolution needs no gradient of its input. The optimizer is
    left out.

    Args:
        layers: that are trained.
        prefix: tokens before the image.
        images: in the batch.
        cached: the trunk's features are read, not computed.
    """
    trunk, pairs = prefix + dims.visual, 4 * images
    total = NOTHING if cached else vision(dims, 5 * images)
    for _ in range(0 if cached else max(layers)):
        total += decoder_layer(dims, trunk, trunk, rows=5 * images)
    weights = _convolutions(dims, hidden, kernels)
    trained = 2 * dims.visual * (3 * sum(weights) - weights[0])
    return total + len(set(layers)) * Cost(pairs * trained, 3 * sum(weights) * dims.itemsize)


def _convolutions(dims: Dimensions, hidden: Sequence[int] | None, kernels: Sequence[int]) -> list[int]:
    """Weights of each convolution of a TokenSR."""
    between = (dims.hidden // 2, dims.hidden // 4) if hidden is None else tuple(hidden)
    widths = (dims.hidden, *between, dims.hidden)
    return [a * b * kernel**2 for a, b, kernel in zip(widths[:-1], widths[1:], kernels, strict=True)]


class Meter:
    """FLOPs of questions under one policy, picture and answer included, as `attach` and `generate` do them.

    Args:
        config: of the model.
        tokenizer: of its processor.
        policy: None for the backbone as it is.
        modules: folder, hub id or mapping, as for `attach`; modules other than TokenSR count nothing.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        policy: Policy | None,
        modules: str | PathLike[str] | Mapping[int, nn.Module] | None,
    ) -> None:
        self._dims = Dimensions.of(config)
        self._tokenizer = tokenizer
        self._saliency = "attention" if policy is None else policy.saliency
        whole = policy is None or policy.interpolate
        self._extension = self._dims.visual // (1 if policy is None or whole else policy.patches**2)
        expander = _expander(self._dims, modules)
        self._expander = Cost(expander.flops * self._extension // self._dims.visual, expander.bytes)

    def __call__(self, size: tuple[int, int], text: str, events: Sequence[Event], answer: int) -> int:
        """FLOPs of one question.

        Args:
            size: (width, height) of its picture.
            text: the full prompt, with one image token.
            events: what was done at the prompt.
            answer: tokens of the answer, the closing one included.
        """
        width, height = size
        dims = self._dims
        down, across = tiles(dims, height, width) if dims.pinpoints else (0, 0)
        tokens = len(self._tokenizer(text)["input_ids"]) - 1 + image_tokens(dims, height, width)
        cost = vision(dims, 1 + down * across)
        cost += prompt(
            dims,
            tokens,
            events,
            extension=self._extension,
            expander=self._expander,
            saliency=self._saliency,
        )
        return (cost + decode(dims, tokens, answer - 1, events, self._extension)).flops


def _expander(dims: Dimensions, modules: str | PathLike[str] | Mapping[int, nn.Module] | None) -> Cost:
    """The cost of one extension's module on the whole grid."""
    if modules is None:
        return NOTHING
    if not isinstance(modules, Mapping):
        config = token_sr_config(modules)
        return token_sr(dims, config.hidden, config.kernels)
    module = next((module for module in modules.values() if isinstance(module, TokenSR)), None)
    return NOTHING if module is None else token_sr(dims, module.hidden, module.kernels)
