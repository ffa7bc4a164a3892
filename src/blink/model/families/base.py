"""What Blink has to know of a vision-language model beside its decoder layers: how it places a picture in a prompt.

`Family` holds what most models do; a family's own file says where it differs. `docs/new_backbone.md` walks through one.

Axes: B rows of a prompt, one picture each, S columns, C axes of positions (1, or 3 of M-RoPE), T visual tokens of a
picture, tiles, newlines and separators included, V = H x W of the base view, d hidden width.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

Grid = tuple[int, int]
"""Rows and columns (H, W) of visual tokens."""


class Encoded(NamedTuple):
    """Visual tokens of some pictures.

    Attributes:
        features_Td: of all pictures, one after the other, as the model puts them at its image tokens.
        added: for models that add visual features to hidden states behind decoder layers 0, 1, ... (DeepStack): as
            many rows as `features_Td`, per layer.
    """

    features_Td: Tensor
    added: tuple[Tensor, ...] = ()


class Tower(NamedTuple):
    """Vision tower and projector, by what their parts run on, for costs.

    Attributes:
        embedding: runs on patches of pixels.
        blocks: run on the tower's tokens, which are patches, and class tokens before them.
        projectors: run on visual tokens.
        pooling: makes one vector of each view, by attention from one query; nobody reads it. None: there is none.
        width: of all attention heads together.
        merge: patches per side of one visual token.
        class_tokens: how many there are in a view.
        window: patches per side of the windows that attention keeps to; None: blocks attend to the whole view.
        whole: with windows, the blocks that attend to the whole view all the same.
    """

    embedding: nn.Module
    blocks: nn.ModuleList
    projectors: tuple[nn.Module, ...]
    pooling: nn.Module | None
    width: int
    merge: int = 1
    class_tokens: int = 0
    window: int | None = None
    whole: tuple[int, ...] = ()


class Family:
    """Models of one class. Each picture's *base view* is the part of its visual tokens that shows all of it as a grid.

    Args:
        model: the transformers model; it is read, never changed.

    Attributes:
        architectures: classes of transformers that belong here.
        image_inputs: what of a processor's output goes to `get_image_features`.
        text_model: name of the decoder in `model.model`.
        base_view_last: whether the base view is the end of the visual tokens, rather than their beginning.
        axes: of position ids: 1, or 3 where they count time, rows and columns (M-RoPE).
        any_size: whether the processor takes a picture at about its own size, between two numbers of pixels.

    Raises:
        ValueError: the model's config is one that Blink cannot work with; the message says why.
    """

    architectures: ClassVar[tuple[Any, ...]] = ()
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")
    text_model: ClassVar[str] = "language_model"
    base_view_last: ClassVar[bool] = False
    axes: ClassVar[int] = 1
    any_size: ClassVar[bool] = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config: Any = model.config
        self.core: Any = model.model
        self.decoder: Any = getattr(self.core, self.text_model)
        self.image_token_id: int = self.config.image_token_id
        self.check()

    @property
    def name(self) -> str:
        """As configs name the model's type: "llava", "qwen2_5_vl"."""
        name: str = self.config.model_type
        return name

    def check(self) -> None:
        """Raise ValueError unless the config is one that the family's other methods are right for."""

    @cached_property
    def grid(self) -> Grid | None:
        """Grid of every picture's base view; None where it depends on the picture."""
        vision = self.config.vision_config
        return side(vision.image_size, 0) // vision.patch_size, side(
            vision.image_size, 1
        ) // vision.patch_size

    @cached_property
    def tokens_per_view(self) -> int:
        """Visual tokens that the vision tower makes of one view, where all are alike."""
        assert self.grid is not None, "this family's views differ in size"
        return self.grid[0] * self.grid[1]

    def grids(self, inputs: Mapping[str, Any], rows: int) -> list[Grid]:
        """Grid of the base view of each row's picture.

        Args:
            inputs: the processor's output, or the arguments of the model's forward.
        """
        assert self.grid is not None, "a family whose grids differ says how"
        return [self.grid] * rows

    def pictures(self, ids: Sequence[int], columns: Sequence[int]) -> int:
        """How many pictures a row holds; most families write the tokens of one picture side by side.

        Args:
            ids: of the row.
            columns: of its image tokens, ascending.
        """
        return count_runs(ids, columns)

    def closing(self, ids: Sequence[int], columns: Sequence[int]) -> int:
        """How many tokens behind a picture's last belong to it, not to the text; a processor or template writes them.

        Args:
            ids, columns: as for `pictures`.
        """
        return 0

    def image_tokens(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[int | None]:
        """How many image tokens each picture needs; None for at least those of its base view.

        Args:
            inputs: arguments of the model's forward. After transformers has encoded pictures ahead of a generation
                they are in `mm_encoder_outputs`, and no pixels are left.
            in_prompt: image tokens of each row.
        """
        encoded = encoded_before(inputs)
        if encoded is not None:
            return [len(features) for features in encoded.pooler_output]
        return [None] * (0 if inputs.get("pixel_values") is None else len(inputs["pixel_values"]))

    def encode(self, inputs: Mapping[str, Any]) -> Encoded:
        """Vision tower and projector on all pictures of `inputs`, in the order of their image tokens."""
        named = {name: inputs[name] for name in self.image_inputs if inputs.get(name) is not None}
        output = self.core.get_image_features(**named, return_dict=True)
        added = getattr(output, "deepstack_features", None) or ()
        return Encoded(flat(output.pooler_output), tuple(flat(features) for features in added))

    def positions(self, ids_BS: Tensor, valid_BS: Tensor | None, inputs: Mapping[str, Any]) -> Tensor:
        """Position ids of the stock model: int64 [C, 1, S] without padding, else [C, B, S].

        Args:
            valid_BS: bool, False at padding; None if there is none.
        """
        return text_positions(valid_BS, ids_BS.shape[1], ids_BS.device)[None]

    def added(self, inputs: Mapping[str, Any], hidden_BSd: Tensor) -> dict[int, Tensor]:
        """What the decoder adds behind some layers, 0 at text: layer -> [B, S, d]; `inputs` are its own arguments."""
        return {}

    def pixels_by_picture(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[Tensor]:
        """Pixels of each picture as the vision tower sees them, padding left out."""
        return list(inputs["pixel_values"])

    def base_view_pixels(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[Tensor]:
        """Pixels of each picture's base view as the vision tower sees them: [C, h, w]."""
        views = self.pixels_by_picture(inputs, in_prompt)
        place = -1 if self.base_view_last else 0
        return [view if view.dim() == 3 else view[place] for view in views]

    def view_inputs(self, pixels_BChw: Tensor) -> dict[str, Tensor]:
        """Inputs of pictures that are one base view each, from its pixels: the way back from `base_view_pixels`."""
        return {"pixel_values": pixels_BChw}

    def tower(self) -> Tower:
        """The parts of vision tower and projector."""
        vision = self.core.vision_tower
        vision = getattr(vision, "vision_model", vision)  # before transformers 5.24
        return Tower(
            vision.embeddings,
            vision.encoder.layers,
            (self.core.multi_modal_projector,),
            getattr(vision, "head", None),
            width=self.config.vision_config.hidden_size,
            class_tokens=int(has_class_token(vision)),
        )

    def views_by_picture(self, inputs: Mapping[str, Any], in_prompt: Sequence[int]) -> list[list[Grid]]:
        """Rows and columns of patches in each view that the vision tower sees of each picture."""
        assert self.grid is not None, "a family whose grids differ says how"
        (H, W), merge = self.grid, self.tower().merge
        pixels = self.pixels_by_picture(inputs, in_prompt)
        return [[(H * merge, W * merge)] * (1 if one.dim() == 3 else len(one)) for one in pixels]


def side(size: int | Sequence[int], axis: int) -> int:
    """Height (axis 0) or width of an image size, which configs give as one number or two."""
    return size if isinstance(size, int) else size[axis]


def has_class_token(tower: Any) -> bool:
    """Whether a vision tower puts a class token before the tokens of a picture."""
    return any("class_embedding" in name or "cls_token" in name for name, _ in tower.named_parameters())


def flat(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Features of several pictures or tiles, in one tensor or a list, as rows: [T, d]."""
    joined = features if isinstance(features, Tensor) else torch.cat(list(features))
    return joined.reshape(-1, joined.shape[-1])


def encoded_before(inputs: Mapping[str, Any]) -> Any:
    """The image encoder's output that transformers passes along, or None."""
    return (inputs.get("mm_encoder_outputs") or {}).get("image")


def text_positions(valid_BN: Tensor | None, columns: int, device: torch.device) -> Tensor:
    """Position ids 0 .. n-1 over the valid columns: [1, N] without padding, else [B, N] with 0 at padding."""
    if valid_BN is None:
        return torch.arange(columns, device=device)[None]
    return (valid_BN.long().cumsum(dim=1) - 1).masked_fill(~valid_BN, 0)


def count_runs(_: Sequence[int], columns: Sequence[int]) -> int:
    """How many unbroken runs ascending columns form."""
    if not columns or columns[-1] - columns[0] + 1 == len(columns):
        return min(len(columns), 1)
    return 1 + sum(after != before + 1 for before, after in pairwise(columns))
