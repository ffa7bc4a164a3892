"""KV caches of trunks: system and visual tokens of a prefix and a picture, which all questions about it share.

Attention is causal and the visual span precedes the text. So keys and values of system and visual tokens depend on
the prefix and the pixels alone, not on any text. Trunks of one length run together.

Axes: g trunks, P tokens of a trunk, V = H x W of the base view, C axes of positions, K key heads, E width of one head,
d hidden width.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from blink.inference.attention import Hook, LeaveLayer, leave
from blink.inference.cache import KeysValues, OneCall
from blink.model.backbone import Backbone, Frame
from blink.model.families import Grid
from blink.model.image_inputs import Embedded


class Entry(NamedTuple):
    """Keys and values of one of several things that ran together: those of all, [b, K, N, E], and its row."""

    of: KeysValues
    row: int


def stack(entries: Sequence[Entry]) -> KeysValues:
    """Keys and values of some entries of one length, [b, K, N, E]; not a copy where they lie side by side already."""
    first = entries[0].of
    if all(entry.of is first for entry in entries):
        index = as_index([entry.row for entry in entries])
        return KeysValues(*(part[index] for part in first))
    return KeysValues(*(torch.stack([entry.of[part][entry.row] for entry in entries]) for part in (0, 1)))


def as_index(numbers: Sequence[int]) -> list[int] | slice:
    """Numbers as an index, which is a slice where they follow one another."""
    first = numbers[0] if numbers else 0
    if list(numbers) == list(range(first, first + len(numbers))):
        return slice(first, first + len(numbers))
    return list(numbers)


class Place(NamedTuple):
    """Where a trunk's picture stands.

    Attributes:
        base_start: column of the base view's first token.
        grid: (H, W) of the base view.
        position_CP: position ids of the stock model.
    """

    base_start: int
    grid: Grid
    position_CP: Tensor


@dataclass(frozen=True, eq=False)
class Trunk:
    """KV cache of one prefix and one picture, every layer of it, and the visual tokens that enter some layers.

    Attributes:
        columns: P.
        base_start: column of the base view's first token.
        grid: (H, W) of the base view.
        cell_CV: position ids of the base view.
        next_position: position of a token behind the trunk, on all axes.
        layers: keys and values per layer, [g, K, P, E], of all trunks that ran together.
        index: this one's among them.
        visual: layer -> base view's tokens that enter it, [V, d], for the layers that some policy scans.
    """

    columns: int
    base_start: int
    grid: Grid
    cell_CV: Tensor
    next_position: int
    layers: Sequence[KeysValues]
    index: int
    visual: Mapping[int, Tensor]

    def entry(self, layer: int) -> Entry:
        """Keys and values of a layer."""
        return Entry(self.layers[layer], self.index)


def run_trunks(
    backbone: Backbone, embedded: Embedded, places: Sequence[Place], layers: Collection[int]
) -> list[Trunk]:
    """Run system and visual tokens of some prompts through every layer.

    Args:
        embedded: prefixes and visual spans of one length, [g, P, d].
        places: of each.
        layers: at which to keep the visual tokens, for expansion and for scans by similarity.
    """
    hidden_gPd = embedded.hidden_BSd
    position_CgP = torch.stack([place.position_CP for place in places], dim=1)
    next_positions: list[int] = (position_CgP.amax(dim=(0, 2)) + 1).tolist()
    alike = bool((position_CgP == position_CgP[:, :1]).all())
    frame = backbone.frame(hidden_gPd, None, position_CgP[:, :1] if alike else position_CgP)
    caches: list[KeysValues] = []
    entering: dict[int, Tensor] = {}
    for layer in range(backbone.num_layers):
        hidden_gPd = hidden_gPd.to(backbone.device_of(layer))
        if layer in layers:
            entering[layer] = hidden_gPd
        hidden_gPd, new = run_layer_once(backbone, layer, hidden_gPd, frame)
        if layer in embedded.added:
            hidden_gPd = hidden_gPd + embedded.added[layer].to(hidden_gPd.device)
        caches.append(new)
    trunks = []
    for index, (start, grid, position_CP) in enumerate(places):
        end = start + grid[0] * grid[1]
        trunks.append(
            Trunk(
                columns=hidden_gPd.shape[1],
                base_start=start,
                grid=grid,
                cell_CV=position_CP[:, start:end],
                next_position=next_positions[index],
                layers=caches,
                index=index,
                visual={layer: of_layer[index, start:end] for layer, of_layer in entering.items()},
            )
        )
    return trunks


def run_layer_once(
    backbone: Backbone, layer: int, hidden_bNd: Tensor, frame: Frame, hook: Hook | None = None
) -> tuple[Tensor, KeysValues]:
    """Run one layer on tokens that attend to each other, or as `hook` says: its output, and their keys and values.

    The last layer's output is never read, so it is left once its keys and values are computed.
    """
    call = OneCall()
    if layer < backbone.num_layers - 1:
        hidden_bNd = backbone.run_layer(layer, hidden_bNd, frame, call, hook)
    else:
        with suppress(LeaveLayer):
            backbone.run_layer(layer, hidden_bNd, frame, call, leave)
    # A layer computes the heads of a token side by side; those who read the keys again and again go head by head.
    return hidden_bNd, KeysValues(*(part.contiguous() for part in call.new))
