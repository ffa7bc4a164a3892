"""What the work costs on paper: FLOPs and memory traffic of every part, from a model's config alone.

FLOPs are those of matrix products and convolutions, two per multiplication and addition, as
`torch.utils.flop_counter` counts them: attention as the full rectangle of queries and keys, though a causal kernel
may skip half of it; norms, activations, rotary embeddings and softmax left out. Bytes are what must be moved at
least: each weight once per call, keys and values written once and read once. Activations are left out. Plain
numbers in, plain numbers out: this file knows no tensors and loads no model.

Letters: T new tokens, M columns of keys that they attend to (their own included), X tokens of an extension.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from blink.inference.policy import Event, living
from blink.model.dimensions import Dimensions


@dataclass(frozen=True)
class Cost:
    """Work: `flops`, and the `bytes` that it moves at least. Costs add up and multiply with whole numbers."""

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
    """One row's scan at one layer: query projection, key projection, one row of attention (Eq. 1 and 2).

    Args:
        columns: keys that the last prompt token may see.
        saliency: as in the policy; "similarity" looks at the visual tokens alone.
    """
    seen = columns if saliency == "attention" else dims.visual
    query, key = dims.hidden * dims.heads * dims.head, dims.hidden * dims.key_heads * dims.head
    row = seen * dims.head * (dims.heads if saliency == "attention" else dims.key_heads)
    return Cost(2 * (query + seen * key + row), (query + key) * dims.itemsize)


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
    lengths = [tokens + (X if now else 0) for now in alive]
    total = head(dims)
    for columns in lengths:
        total += decoder_layer(dims, columns, columns)
    for event in events:
        before = lengths[event.layer - 1] if event.layer else tokens
        total += scan(dims, before, saliency)
        total += expander if event.action == "expand" else NOTHING
    return total


def decode(
    dims: Dimensions, tokens: int, steps: int, events: Sequence[Event] = (), extension: int | None = None
) -> Cost:
    """`steps` single-token steps behind a prompt of `tokens` tokens, each with its logits.

    An answer of n tokens takes n - 1 of them: its first token comes from the prompt pass.
    """
    X = dims.visual if extension is None else extension
    total = head(dims) * steps
    for now in living(events, dims.layers):
        first = tokens + (X if now else 0) + 1
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
