"""Regions of the original pictures, encoded anew and taken up to the layer that expands them (`Policy.source="encode"`).

A crop goes through vision tower and projector, and behind the prompt's own prefix through the decoder layers below the
expansion, just as the teacher of TokenSR does (`model/visual_states.py`). Nothing is encoded before a region is expanded.

Axes: P tokens of a prefix, b crops run together, V = H x W visual tokens of the base view, C channels of a picture, h x w its
pixels, d hidden width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from blink.inference.boxes import SeenBox
from blink.inference.run import Run, encodes
from blink.model.backbone import Backbone
from blink.model.families import Grid
from blink.model.token_sr import Box, expand, region_box
from blink.model.views import ViewMaker, cut_picture, pixel_edges
from blink.model.visual_states import ViewStates, enter_decoder, join_states, run_up_to


class Picture(Protocol):
    """What a row's crops are cut from."""

    def cut(self, box: Box, grid: Grid) -> Mapping[str, Tensor]:
        """Some cells of the grid as a picture of their own, in its inputs to the vision tower."""
        ...


class OriginalPicture:
    """The picture as it was before the processor, at its own resolution.

    Args:
        maker: of the backbone's processor.
    """

    def __init__(self, image: Image.Image, maker: ViewMaker) -> None:
        self._image, self._maker = image if image.mode == "RGB" else image.convert("RGB"), maker

    def cut(self, box: Box, grid: Grid) -> Mapping[str, Tensor]:
        """See `Picture`; cut out of what the backbone sees, as the quadrants of TokenSR's training are."""
        made = self._maker.uncut([cut_picture(self._maker.seen(self._image), box, grid)], grid)
        return {name: tensor for name, tensor in made.items() if name != "input_ids"}


class ProcessedPicture:
    """The base view as the vision tower has seen it, which holds no more detail than that.

    Args:
        pixels_Chw: of `Family.base_view_pixels`.
    """

    def __init__(self, backbone: Backbone, pixels_Chw: Tensor) -> None:
        self._family, self._pixels_Chw = backbone.family, pixels_Chw

    def cut(self, box: Box, grid: Grid) -> Mapping[str, Tensor]:
        """See `Picture`; resized to the size of the whole."""
        h, w = self._pixels_Chw.shape[1:]
        left, top, right, bottom = pixel_edges((w, h), box, grid)
        cut_1Chw = self._pixels_Chw[None, :, top:bottom, left:right].float()
        resized_1Chw = F.interpolate(cut_1Chw, size=(h, w), mode="bicubic", align_corners=False)
        return self._family.view_inputs(resized_1Chw.to(self._pixels_Chw.dtype))


class Crops:
    """The crops of some prompts: each is encoded once, and goes on from layer to layer, when an expansion asks for it.

    Args:
        prefixes: per prompt the ids [P] before a picture that is not split into tiles.
        pictures: per prompt.
    """

    def __init__(self, backbone: Backbone, prefixes: Sequence[Tensor], pictures: Sequence[Picture]) -> None:
        self._backbone, self._prefixes, self._pictures = backbone, prefixes, pictures
        # As they enter layer 0, and as far up as they came: a lower layer may ask later.
        self._encoded: dict[tuple[int, Box, Grid], ViewStates] = {}
        self._latest: dict[tuple[int, Box, Grid], ViewStates] = {}

    def tokens(self, layer: int, rows: Sequence[int], boxes: Sequence[Box], grid: Grid) -> Tensor:
        """Visual tokens of crops as they enter a layer, row-major: [b, V, d].

        Args:
            rows: number of each crop's prompt.
            boxes: its cells of the base view.
            grid: of the base view, and of the crop's own.
        """
        wanted = [(row, box, grid) for row, box in zip(rows, boxes, strict=True)]
        new = [crop for crop in dict.fromkeys(wanted) if crop not in self._encoded]
        for alike in _grouped(new, [len(self._prefixes[row]) for row, _, _ in new]):
            self._encoded |= zip(alike, self._encode(alike).split(), strict=True)
        found = {crop: self._below(crop, layer) for crop in dict.fromkeys(wanted)}
        together = [(states.layer, states.hidden_BNd.shape[1]) for states in found.values()]
        for alike in _grouped(list(found), together):
            ran = run_up_to(self._backbone, join_states([found[crop] for crop in alike]), layer)
            self._latest |= zip(alike, ran.split(), strict=True)
        return torch.cat([self._latest[crop].base_view for crop in wanted]).flatten(2).transpose(1, 2)

    def _below(self, crop: tuple[int, Box, Grid], layer: int) -> ViewStates:
        """The states of a crop from which a layer is reached soonest."""
        latest = self._latest.get(crop)
        return self._encoded[crop] if latest is None or latest.layer > layer else latest

    def _encode(self, crops: Sequence[tuple[int, Box, Grid]]) -> ViewStates:
        """Vision tower and projector on crops behind prefixes of one length."""
        backbone, family = self._backbone, self._backbone.family
        cut = [self._pictures[row].cut(box, grid) for row, box, grid in crops]
        pixels = {name: torch.cat([inputs[name] for inputs in cut]).to(backbone.device) for name in cut[0]}
        H, W = crops[0][2]
        count = H * W if backbone.grid is None else family.tokens_per_view
        shown_T = torch.full((count,), family.image_token_id, device=backbone.device)
        ids_bS = torch.stack(
            [torch.cat((self._prefixes[row].to(backbone.device), shown_T)) for row, _, _ in crops]
        )
        inputs = {
            name: tensor.to(backbone.model.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in pixels.items()
        }
        return enter_decoder(backbone, {"input_ids": ids_bS, **inputs})


class Samples(NamedTuple):
    """What the prompts of a batch are known by beside their tokens, one entry each.

    Attributes:
        keys: names, for policies that draw at random.
        boxes: of what the questions are about, for policies that select by them; None: there are none. An entry of None: the
            question is about no single place, and nothing is expanded.
        crops: of their pictures, for policies that encode regions.
    """

    keys: Sequence[str]
    boxes: Sequence[SeenBox | None] | None = None
    crops: Crops | None = None


class Recipe(NamedTuple):
    """What an extension's tokens follow from beside its region. Modules compare by identity; None is interpolation."""

    layer: int
    source: str
    patches: int
    interpolate: bool
    module: nn.Module | None

    @classmethod
    def of(cls, run: Run, layer: int) -> "Recipe":
        """How a run makes extensions at a layer that it scans."""
        policy = run.policy
        assert policy is not None, "only a policy expands"
        return cls(layer, policy.source, policy.patches, policy.interpolate, run.modules.get(layer))

    def tokens(
        self, visual_BVd: Tensor, regions: Sequence[int], grid: Grid, crops: Crops | None, rows: Sequence[int]
    ) -> list[Tensor]:
        """The tokens of extensions, [X, d] each.

        Args:
            visual_BVd: the base views' tokens that enter the layer, all of one grid.
            regions: one per row.
            crops: of the prompts, if regions are encoded.
            rows: number of each row's prompt.
        """
        encoded: list[Tensor] | None = None
        if encodes(self.source, self.module):
            assert crops is not None, "regions to encode are cut out of pictures"
            boxes = [region_box(region, self.patches, grid) for region in regions]
            # A module gets the crop as projected; without one it is the extension itself, as it enters the layer.
            layer = self.layer if self.source == "encode" else 0
            encoded = list(crops.tokens(layer, rows, boxes, grid).to(visual_BVd.device))
            if self.source == "encode":
                return encoded
        return expand(visual_BVd, regions, grid, self.patches, self.interpolate, self.module, encoded)


def crop_prefix(ids_S: Tensor, visual_start: int, base_start: int, image_token_id: int) -> Tensor:
    """The ids before a picture as they would be if it were not split into tiles: [P] of an unpadded prompt.

    Where tiles have tokens of their own between them, the one before the base view stands before the picture then.
    """
    prefix_P, before_1 = ids_S[:visual_start], ids_S[base_start - 1 : base_start]
    if base_start > visual_start and before_1 != image_token_id:
        return torch.cat((prefix_P[:-1], before_1))
    return prefix_P


def _grouped(items: Sequence[Any], kinds: Sequence[Any]) -> list[list[Any]]:
    """Items of one kind together."""
    groups: dict[Any, list[Any]] = {}
    for item, kind in zip(items, kinds, strict=True):
        groups.setdefault(kind, []).append(item)
    return list(groups.values())
