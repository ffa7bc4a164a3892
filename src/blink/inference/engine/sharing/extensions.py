"""KV caches of extensions, which all rows about a picture share whose runs made the same decision.

Keys and values of an extension depend on the trunk, the layer and region that was expanded, where its tokens stand, and
the module that made them; not on any text. Extensions of one length, of whatever trunks, run together.

Axes: P tokens of a trunk, V = H x W of the base view, X tokens of an extension, b extensions run together, C axes of
positions, K key heads, E width of one head, d hidden width.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.inference.crops import Crops, Recipe
from blink.inference.engine.sharing.groups import Groups
from blink.inference.engine.sharing.partial import attend, merge
from blink.inference.engine.sharing.trunk import Entry, Trunk, run_layer_once
from blink.inference.spans import Placement
from blink.model.backbone import Backbone, Frame


class ExtensionKey(NamedTuple):
    """Cache key of an extension: equal keys give equal tokens.

    Attributes:
        trunk: compared by identity.
        number: of the trunk, among those whose pictures `Crops` holds.
    """

    trunk: Trunk
    number: int
    recipe: Recipe
    region: int
    placement: Placement


class Extension:
    """The tokens that one expansion inserted, and their keys and values, as far up as they were needed.

    Attributes:
        trunk: that they stand behind.
        columns: X.
        placement: where they stand.
        layer: the next layer to run; at first the one that expanded.
        hidden_Xd: what enters that layer.
    """

    def __init__(self, trunk: Trunk, layer: int, hidden_Xd: Tensor, placement: Placement) -> None:
        self.trunk = trunk
        self.columns = len(hidden_Xd)
        self.placement = placement
        self.layer = layer
        self.hidden_Xd = hidden_Xd
        self._layers: dict[int, Entry] = {}

    def entry(self, layer: int) -> Entry:
        """Keys and values of a layer that it ran through."""
        return self._layers[layer]

    def append(self, entry: Entry, hidden_Xd: Tensor) -> None:
        """Add its next layer: the keys and values there, and what leaves it."""
        self._layers[self.layer] = entry
        self.hidden_Xd = hidden_Xd
        self.layer += 1


class _Layout(NamedTuple):
    """How extensions of one length attend: to their trunks, and with which rotary embeddings."""

    trunks: Groups
    frame: Frame


class ExtensionCache:
    """The extensions of some trunks. Each is made and run through a layer once, when first needed, several in a call.

    Args:
        crops: of the trunks' pictures, if some policy encodes regions.
        max_tokens: most tokens in a call.
        max_bytes: of keys and values, above which `trim` empties the cache; an extension is then made again if needed.
    """

    def __init__(self, backbone: Backbone, crops: Crops | None, *, max_tokens: int, max_bytes: int) -> None:
        self._backbone = backbone
        self._crops = crops
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._bytes = 0
        self._extensions: dict[ExtensionKey, Extension] = {}
        self._rotary: dict[tuple[int, Placement], tuple[Tensor, Tensor]] = {}
        self._layouts: dict[tuple[torch.device, tuple[Extension, ...]], _Layout] = {}

    def get(self, keys: Iterable[ExtensionKey]) -> dict[ExtensionKey, Extension]:
        """The extensions of some keys; those that are new have not run through any layer."""
        wanted = list(dict.fromkeys(keys))
        groups: dict[tuple[Recipe, tuple[int, int]], list[ExtensionKey]] = {}
        for key in wanted:
            if key not in self._extensions:
                groups.setdefault((key.recipe, key.trunk.grid), []).append(key)
        for (recipe, (H, W)), group in groups.items():
            size = max(1, self._max_tokens // (H * W))
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
            self._layouts.clear()
            self._bytes = 0

    def _expand(self, recipe: Recipe, group: Sequence[ExtensionKey]) -> None:
        """Make extensions of one recipe, of trunks whose base views have one grid."""
        visual_bVd = torch.stack([key.trunk.visual[recipe.layer] for key in group])
        regions, numbers = [key.region for key in group], [key.number for key in group]
        tokens = recipe.tokens(visual_bVd, regions, group[0].trunk.grid, self._crops, numbers)
        for key, hidden_Xd in zip(group, tokens, strict=True):
            self._extensions[key] = Extension(key.trunk, recipe.layer, hidden_Xd, key.placement)

    def _run(self, layer: int, group: Sequence[Extension]) -> None:
        """Run one layer on extensions of one length, each a row of its own behind its trunk."""
        device = self._backbone.device_of(layer)
        hidden_bXd = torch.stack([extension.hidden_Xd for extension in group]).to(device)
        layout = self._layout(group, device)
        trunks = layout.trunks

        def hook(
            query_bAXE: Tensor, keys: Tensor, values: Tensor, scaling: float, stock: Any, /
        ) -> tuple[Tensor, None]:
            query_bXAE = query_bAXE.transpose(1, 2)
            of_trunk = trunks.attend(query_bXAE, trunks.shared.layer(layer), scaling)
            own = attend(query_bXAE, keys, values, scaling, causal=True)
            return merge([of_trunk, own]).to(values.dtype), None

        hidden_bXd, new = run_layer_once(self._backbone, layer, hidden_bXd, layout.frame, hook)
        self._bytes += 2 * new.keys.nbytes
        for index, (extension, hidden_Xd) in enumerate(zip(group, hidden_bXd, strict=True)):
            extension.append(Entry(new, index), hidden_Xd)

    def _layout(self, group: Sequence[Extension], device: torch.device) -> _Layout:
        """Trunks and rotary embeddings, kept for each group and device."""
        together = (device, tuple(group))
        if together in self._layouts:
            return self._layouts[together]
        places = {(id(e.trunk), e.placement): e for e in group}
        new = {place: e for place, e in places.items() if place not in self._rotary}
        if new:
            positions = [
                e.placement.positions(e.trunk.cell_CV, e.trunk.grid, e.trunk.next_position)
                for e in new.values()
            ]
            cos, sin = self._backbone.rotary(torch.stack(positions, dim=1))
            for number, place in enumerate(new):
                # The tokens are the second axis from the right also where there is one for M-RoPE's axes.
                self._rotary[place] = tuple(part.narrow(-3, number, 1) for part in (cos, sin))  # type: ignore[assignment]
        parts = [self._rotary[id(e.trunk), e.placement] for e in group]
        cos, sin = (torch.cat(of_all, dim=-3) for of_all in zip(*parts, strict=True))
        trunks = Groups.of([e.trunk for e in group], group[0].columns, device)
        assert trunks is not None, "each stands behind a trunk"
        self._layouts[together] = _Layout(trunks, Frame(None, (cos, sin)))
        return self._layouts[together]
