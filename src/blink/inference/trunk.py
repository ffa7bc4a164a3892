"""What all questions about a picture share, whatever their policies: the trunk, and extensions behind it.

Attention is causal and the visual span precedes the text. So keys and values of system and visual tokens follow from
the prefix and the pixels alone, and those of an extension from the trunk, the layer of its birth, its region and what
expanded it. Neither knows of any text. Positions run on: an extension follows the whole visual span.

Axes: P tokens of the trunk, T visual tokens (tiles and newlines included), V = H x W of the base grid, X tokens of an
extension, b extensions run together, K key heads, E width of one head, d hidden width.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blink.inference.cache import KeysValues, OneCall
from blink.model.backbone import Backbone, Frame, rotate
from blink.model.token_sr import expand


@dataclass(frozen=True)
class Trunk:
    """System and visual tokens of one picture behind one prefix, as they went through every layer.

    Attributes:
        columns: P.
        visual_start: column of the first visual token.
        layers: keys and values per layer, [1, K, P, E].
        visual: base grid's tokens that enter a layer, [V, d], for the layers that were asked for.
    """

    columns: int
    visual_start: int
    layers: tuple[KeysValues, ...]
    visual: Mapping[int, Tensor]

    def at(self, layer: int) -> KeysValues:
        """Keys and values of a layer, [K, P, E]."""
        return KeysValues(*(part[0] for part in self.layers[layer]))


def run_trunk(
    backbone: Backbone, prefix_ids: Sequence[int], features_Td: Tensor, layers: Collection[int]
) -> Trunk:
    """Run system and visual tokens through every layer.

    Args:
        prefix_ids: ids before the picture; may be none.
        features_Td: the picture's visual tokens, base view first.
        layers: whose visual tokens to keep, for expansion and for scans by similarity.
    """
    prefix_P = torch.tensor(prefix_ids, dtype=torch.long, device=features_Td.device)
    hidden_1Pd = torch.cat((backbone.embed(prefix_P), features_Td))[None]
    start, P = len(prefix_ids), hidden_1Pd.shape[1]
    frame = backbone.frame(hidden_1Pd, None, torch.arange(P, device=features_Td.device)[None])
    kept, visual = [], {}
    for layer in range(backbone.num_layers):
        if layer in layers:
            visual[layer] = hidden_1Pd[0, start : start + backbone.grid[0] * backbone.grid[1]].clone()
        hidden_1Pd, made = _pass(backbone, layer, hidden_1Pd, frame)
        kept.append(made)
    return Trunk(P, start, tuple(kept), visual)


class Birth(NamedTuple):
    """All that an extension of a given trunk follows from; `module` counts by identity, None is interpolation."""

    layer: int
    region: int
    patches: int
    interpolate: bool
    module: nn.Module | None


class Extension:
    """The tokens that one expansion inserted, from the layer of its birth as far up as they were needed.

    Attributes:
        columns: X.
        layer: the next layer to run.
        hidden_Xd: what enters that layer.
    """

    def __init__(self, layer: int, hidden_Xd: Tensor) -> None:
        self.columns = len(hidden_Xd)
        self.layer = layer
        self.hidden_Xd = hidden_Xd
        self._layers: dict[int, KeysValues] = {}

    def at(self, layer: int) -> KeysValues:
        """Keys and values of a layer that it ran through, [K, X, E]."""
        return self._layers[layer]

    def passed(self, made: KeysValues, hidden_Xd: Tensor) -> None:
        """Take what its next layer made."""
        self._layers[self.layer] = made
        self.hidden_Xd = hidden_Xd
        self.layer += 1


class Extensions:
    """The extensions of one trunk: made and run once, when first needed, several in a call.

    Args:
        at_once: most tokens in a call.
        budget: bytes of keys and values from which on all are forgotten by `trim`; to be made again if asked for.
    """

    def __init__(self, backbone: Backbone, trunk: Trunk, *, at_once: int, budget: int) -> None:
        self._backbone = backbone
        self._trunk = trunk
        self._at_once = at_once
        self._budget = budget
        self._bytes = 0
        self._known: dict[Birth, Extension] = {}
        self._frames: dict[int, Frame] = {}

    def born(self, births: Iterable[Birth]) -> dict[Birth, Extension]:
        """The extensions of some births, before they went through any layer or as far as they came."""
        wanted = list(dict.fromkeys(births))
        kinds: dict[Birth, list[Birth]] = {}
        for birth in wanted:
            if birth not in self._known:
                kinds.setdefault(birth._replace(region=0), []).append(birth)
        for kind, alike in kinds.items():
            most = max(1, self._at_once // (self._backbone.grid[0] * self._backbone.grid[1]))
            for first in range(0, len(alike), most):
                self._expand(kind, alike[first : first + most])
        return {birth: self._known[birth] for birth in wanted}

    def run(self, layer: int, needed: Iterable[Extension | None]) -> None:
        """Take the extensions that have not been through a layer yet through it."""
        waiting: dict[int, list[Extension]] = {}
        for extension in dict.fromkeys(needed):
            if extension is not None and extension.layer == layer:
                waiting.setdefault(extension.columns, []).append(extension)
        for X, alike in waiting.items():
            most = max(1, self._at_once // X)
            for first in range(0, len(alike), most):
                self._run(layer, alike[first : first + most])

    def trim(self) -> None:
        """Forget all if they have outgrown the budget; whoever holds one keeps it."""
        if self._bytes > self._budget:
            self._known.clear()
            self._bytes = 0

    def _expand(self, kind: Birth, alike: Sequence[Birth]) -> None:
        """Make extensions that differ in their region only."""
        visual_Vd = self._trunk.visual[kind.layer]
        extension_bXd = expand(
            visual_Vd.expand(len(alike), -1, -1),
            torch.tensor([birth.region for birth in alike], device=visual_Vd.device),
            self._backbone.grid,
            kind.patches,
            kind.interpolate,
            kind.module,
        )
        for birth, hidden_Xd in zip(alike, extension_bXd, strict=True):
            self._known[birth] = Extension(birth.layer, hidden_Xd)

    def _run(self, layer: int, alike: Sequence[Extension]) -> None:
        """Take extensions of one length through a layer, each behind the trunk and blind to the others."""
        hidden_bXd = torch.stack([extension.hidden_Xd for extension in alike])
        X, P = hidden_bXd.shape[1], self._trunk.columns
        if X not in self._frames:
            position_ids = torch.arange(P, P + X, device=hidden_bXd.device)[None]
            self._frames[X] = self._backbone.frame(hidden_bXd[:1], None, position_ids, past=P)
        hidden_bXd, made = _pass(
            self._backbone, layer, hidden_bXd, self._frames[X], self._trunk.layers[layer]
        )
        self._bytes += 2 * made.keys.nbytes
        for extension, keys, values, hidden_Xd in zip(alike, *made, hidden_bXd, strict=True):
            extension.passed(KeysValues(keys, values), hidden_Xd)


def _pass(
    backbone: Backbone, layer: int, hidden_bNd: Tensor, frame: Frame, before: KeysValues | None = None
) -> tuple[Tensor, KeysValues]:
    """Run one layer on tokens behind `before`: what leaves it, and the keys and values that it made.

    Of the last layer only these are made: nobody asks what leaves it.
    """
    if layer == backbone.num_layers - 1:
        heads = backbone.project(layer, hidden_bNd)
        return hidden_bNd, KeysValues(rotate(heads.keys_BKNE, frame.rotary), heads.values_BKNE)
    call = OneCall(before)
    return backbone.run_layer(layer, hidden_bNd, frame, call), call.made
