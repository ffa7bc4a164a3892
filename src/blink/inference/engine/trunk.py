"""KV caches that all questions about a picture share: of the trunk (system and visual tokens), and of extensions.

Attention is causal and the visual span precedes the text. So keys and values of system and visual tokens depend on
the prefix and the pixels alone, and those of an extension on the trunk, the layer and region that was expanded, where
its tokens stand, and the module that made them. Neither depends on any text.

Axes: P tokens of the trunk, V = H x W of the base view, X tokens of an extension, b extensions run together, C axes of
positions, K key heads, E width of one head, d hidden width.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.inference.attention import LeaveLayer, leave
from blink.inference.cache import KeysValues, OneCall
from blink.inference.crops import Crops, Recipe
from blink.inference.spans import Placement
from blink.model.backbone import Backbone, Frame
from blink.model.families import Grid
from blink.model.image_inputs import Embedded


@dataclass(frozen=True)
class Trunk:
    """KV cache of one prefix and one picture, every layer of it, and the visual tokens that enter some layers.

    Attributes:
        columns: P.
        base_start: column of the base view's first token.
        grid: (H, W) of the base view.
        cell_CV: position ids of the base view.
        next_position: position of a token behind the trunk, on all axes.
        layers: keys and values per layer, [1, K, P, E].
        visual: layer -> base view's tokens that enter it, [V, d], for the layers that some policy scans.
    """

    columns: int
    base_start: int
    grid: Grid
    cell_CV: Tensor
    next_position: int
    layers: tuple[KeysValues, ...]
    visual: Mapping[int, Tensor]

    def keys_values(self, layer: int) -> KeysValues:
        """Keys and values of a layer, [K, P, E]."""
        return KeysValues(*(part[0] for part in self.layers[layer]))


def run_trunk(
    backbone: Backbone,
    embedded: Embedded,
    position_C1P: Tensor,
    base_start: int,
    grid: Grid,
    layers: Collection[int],
) -> Trunk:
    """Run system and visual tokens through every layer.

    Args:
        embedded: prefix and visual span of one prompt, [1, P, d].
        position_C1P: position ids of the stock model.
        base_start: column of the base view's first token.
        layers: at which to keep the visual tokens, for expansion and for scans by similarity.
    """
    hidden_1Pd, end = embedded.hidden_BSd, base_start + grid[0] * grid[1]
    frame = backbone.frame(hidden_1Pd, None, position_C1P)
    caches, visual = [], {}
    for layer in range(backbone.num_layers):
        if layer in layers:
            visual[layer] = hidden_1Pd[0, base_start:end].clone()
        hidden_1Pd, new = _run_layer(backbone, layer, hidden_1Pd, frame)
        if layer in embedded.added:
            hidden_1Pd = hidden_1Pd + embedded.added[layer]
        caches.append(new)
    return Trunk(
        columns=hidden_1Pd.shape[1],
        base_start=base_start,
        grid=grid,
        cell_CV=position_C1P[:, 0, base_start:end],
        next_position=int(position_C1P.max()) + 1,
        layers=tuple(caches),
        visual=visual,
    )


class ExtensionKey(NamedTuple):
    """Cache key of an extension of one trunk: equal keys give equal tokens."""

    recipe: Recipe
    region: int
    placement: Placement


class Extension:
    """The tokens that one expansion inserted, and their keys and values, as far up as they were needed.

    Attributes:
        columns: X.
        placement: where they stand.
        layer: the next layer to run; at first the one that expanded.
        hidden_Xd: what enters that layer.
    """

    def __init__(self, layer: int, hidden_Xd: Tensor, placement: Placement) -> None:
        self.columns = len(hidden_Xd)
        self.placement = placement
        self.layer = layer
        self.hidden_Xd = hidden_Xd
        self._layers: dict[int, KeysValues] = {}

    def keys_values(self, layer: int) -> KeysValues:
        """Keys and values of a layer that it ran through, [K, X, E]."""
        return self._layers[layer]

    def append(self, keys_values: KeysValues, hidden_Xd: Tensor) -> None:
        """Add its next layer: the keys and values there, and what leaves it."""
        self._layers[self.layer] = keys_values
        self.hidden_Xd = hidden_Xd
        self.layer += 1


class ExtensionCache:
    """The extensions of one trunk. Each is made and run through a layer once, when first needed, several in a call.

    Args:
        crops: of the trunk's picture, if some policy encodes regions.
        max_tokens: most tokens in a call.
        max_bytes: of keys and values, above which `trim` empties the cache; an extension is then made again if needed.
    """

    def __init__(
        self, backbone: Backbone, trunk: Trunk, crops: Crops | None, *, max_tokens: int, max_bytes: int
    ) -> None:
        self._backbone = backbone
        self._trunk = trunk
        self._crops = crops
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._bytes = 0
        self._extensions: dict[ExtensionKey, Extension] = {}
        self._rotary: dict[Placement, tuple[Tensor, Tensor]] = {}
        self._masks: dict[int, Any] = {}

    def get(self, keys: Iterable[ExtensionKey]) -> dict[ExtensionKey, Extension]:
        """The extensions of some keys; those that are new have not run through any layer."""
        wanted = list(dict.fromkeys(keys))
        groups: dict[Recipe, list[ExtensionKey]] = {}
        for key in wanted:
            if key not in self._extensions:
                groups.setdefault(key.recipe, []).append(key)
        size = max(1, self._max_tokens // (self._trunk.grid[0] * self._trunk.grid[1]))
        for recipe, group in groups.items():
            for first in range(0, len(group), size):
                self._expand(recipe, group[first : first + size])
        return {key: self._extensions[key] for key in wanted}

    def advance(self, layer: int, extensions: Iterable[Extension | None]) -> None:
        """Run `layer` on those of the extensions that have not been through it yet."""
        groups: dict[int, list[Extension]] = {}
        for extension in dict.fromkeys(extensions):
            if extension is not None and extension.layer == layer:
                groups.setdefault(extension.columns, []).append(extension)
        for X, group in groups.items():
            size = max(1, self._max_tokens // X)
            for first in range(0, len(group), size):
                self._run(layer, group[first : first + size])

    def trim(self) -> None:
        """Empty the cache if it has outgrown `max_bytes`; whoever holds an extension keeps it."""
        if self._bytes > self._max_bytes:
            self._extensions.clear()
            self._bytes = 0

    def _expand(self, recipe: Recipe, group: Sequence[ExtensionKey]) -> None:
        """Make extensions of one recipe."""
        visual_Vd, grid = self._trunk.visual[recipe.layer], self._trunk.grid
        regions = [key.region for key in group]
        one_prompt = [0] * len(group)
        tokens = recipe.tokens(visual_Vd.expand(len(group), -1, -1), regions, grid, self._crops, one_prompt)
        for key, hidden_Xd in zip(group, tokens, strict=True):
            self._extensions[key] = Extension(recipe.layer, hidden_Xd, key.placement)

    def _run(self, layer: int, group: Sequence[Extension]) -> None:
        """Run one layer on extensions of one length, each a row of its own behind the trunk."""
        hidden_bXd = torch.stack([extension.hidden_Xd for extension in group])
        frame = self._frame(hidden_bXd, [extension.placement for extension in group])
        hidden_bXd, new = _run_layer(self._backbone, layer, hidden_bXd, frame, self._trunk.layers[layer])
        self._bytes += 2 * new.keys.nbytes
        for extension, keys, values, hidden_Xd in zip(group, *new, hidden_bXd, strict=True):
            extension.append(KeysValues(keys, values), hidden_Xd)

    def _frame(self, hidden_bXd: Tensor, placements: Sequence[Placement]) -> Frame:
        """Mask, which depends on the length alone, and rotary embeddings, kept for each place."""
        trunk, X = self._trunk, hidden_bXd.shape[1]
        for placement in placements:
            if placement not in self._rotary:
                position_CX = placement.positions(trunk.cell_CV, trunk.grid, trunk.next_position)
                self._rotary[placement] = self._backbone.rotary(position_CX[:, None])
        if X not in self._masks:
            behind_C1X = torch.arange(X, device=hidden_bXd.device).expand(len(trunk.cell_CV), 1, -1)
            frame = self._backbone.frame(hidden_bXd[:1], None, behind_C1X, past=trunk.columns)
            self._masks[X] = frame.mask
        if len(set(placements)) == 1:
            return Frame(self._masks[X], self._rotary[placements[0]])
        cos, sin = zip(*(self._rotary[placement] for placement in placements), strict=True)
        return Frame(self._masks[X], (torch.cat(cos, dim=-3), torch.cat(sin, dim=-3)))


def _run_layer(
    backbone: Backbone, layer: int, hidden_bNd: Tensor, frame: Frame, before: KeysValues | None = None
) -> tuple[Tensor, KeysValues]:
    """Run one layer on tokens that attend to `before` and to each other: its output, and their keys and values.

    The last layer's output is never read, so it is left once its keys and values are computed.
    """
    call = OneCall(before)
    if layer < backbone.num_layers - 1:
        return backbone.run_layer(layer, hidden_bNd, frame, call), call.new
    with suppress(LeaveLayer):
        backbone.run_layer(layer, hidden_bNd, frame, call, leave)
    return hidden_bNd, call.new
