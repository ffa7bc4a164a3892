"""The numbers of a model from which its cost is computed: widths, counts, and weights of its parts.

Numbers are read from the config and from the shapes of the model's weights, so that fused projections, feed-forwards with
or without a gate, windows and mergers count as what they are. An outline without weights will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from blink.model.families import Grid, family_of
from blink.model.families.base import Family
from blink.runs.values import UserError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class NotCountedError(UserError):
    """The cost of a model cannot be computed; says why."""


class AttentionWidths(NamedTuple):
    """Query heads and key heads of a text model, and the width of one head."""

    heads: int
    key_heads: int
    head: int


def attention_widths(text_config: Any) -> AttentionWidths:
    """Read a text model's config; where it names no key heads there are as many as query heads."""
    heads = text_config.num_attention_heads
    key_heads = getattr(text_config, "num_key_value_heads", None) or heads
    head = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return AttentionWidths(heads, key_heads, head)


@dataclass(frozen=True)
class TowerDimensions:
    """The sizes of a vision tower and its projector.

    Attributes:
        patches: rows and columns of patches in a view; None where they depend on the picture.
        merge: patches per side of one visual token.
        class_tokens: tokens of a view beside its patches; `projected` of them reach the projector.
        layers, windowed: blocks, all of which are run, and those among them that attend within windows.
        window: patches per side of a window; 0 without.
        width: of all attention heads together.
        patch_weights, layer_weights, projector_weights: numbers in the matrices of the patch embedding, of one block, and
            of all projectors.
        pooling_weights: of what makes one vector of each view; 0 without.
    """

    patches: Grid | None
    merge: int
    class_tokens: int
    projected: int
    layers: int
    windowed: int
    window: int
    width: int
    patch_weights: int
    layer_weights: int
    projector_weights: int
    pooling_weights: int

    @classmethod
    def of(cls, family: Family) -> TowerDimensions:
        """Read a model's vision tower and projector."""
        tower, grid = family.tower(), family.grid
        return cls(
            patches=None if grid is None else (grid[0] * tower.merge, grid[1] * tower.merge),
            merge=tower.merge,
            class_tokens=tower.class_tokens,
            projected=0 if grid is None else family.tokens_per_view - grid[0] * grid[1],
            layers=len(tower.blocks),
            windowed=0 if tower.window is None else len(tower.blocks) - len(tower.whole),
            window=tower.window or 0,
            width=tower.width,
            patch_weights=sum(
                part.weight.numel()
                for part in tower.embedding.modules()
                if isinstance(part, nn.Conv2d | nn.Conv3d)
            ),
            layer_weights=_of_each("block of the vision tower", tower.blocks),
            projector_weights=sum(map(matrices, tower.projectors)),
            pooling_weights=0 if tower.pooling is None else matrices(tower.pooling),
        )

    def windows(self, view: Grid) -> list[int]:
        """Patches in each window of a view of that many rows and columns; those at its edges are smaller."""
        side = self.window // self.merge * self.merge  # whole visual tokens
        parts = [[min(side, n - start) for start in range(0, n, side)] for n in view]
        return [rows * columns for rows in parts[0] for columns in parts[1]]


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a model from which its cost is computed.

    Attributes:
        hidden, layers, vocabulary: of the decoder.
        heads, key_heads, head: query heads, key heads and the width of one.
        layer_weights: numbers in the matrices of one decoder layer.
        grid: (H, W) visual tokens of the base view; None where it depends on the picture.
        tower: vision tower and projector.
        itemsize: bytes of one number.
    """

    hidden: int
    layers: int
    vocabulary: int
    heads: int
    key_heads: int
    head: int
    layer_weights: int
    grid: Grid | None
    tower: TowerDimensions
    itemsize: int = 2

    @classmethod
    def of(cls, model: Any, dtype: str = "bfloat16") -> Dimensions:
        """Read a model of one of the families, or its outline.

        Raises:
            NotCountedError: its layers differ from each other, or route tokens to experts.
        """
        family = family_of(model)
        text = family.decoder.config
        return cls(
            hidden=text.hidden_size,
            layers=len(family.decoder.layers),
            vocabulary=text.vocab_size,
            **attention_widths(text)._asdict(),
            layer_weights=_of_each("decoder layer", family.decoder.layers),
            grid=family.grid,
            tower=TowerDimensions.of(family),
            itemsize=BYTES[dtype],
        )

    @property
    def visual(self) -> int:
        """Visual tokens of the base view, where all pictures have as many."""
        assert self.grid is not None, "the base views of this family differ in size"
        return self.grid[0] * self.grid[1]


def matrices(part: nn.Module) -> int:
    """Numbers in the matrices of a part of a model."""
    return sum(weight.numel() for weight in part.parameters() if weight.dim() == 2)


def _of_each(what: str, layers: Iterable[nn.Module]) -> int:
    """Numbers in the matrices of one of several layers, which are alike."""
    counts = set()
    for number, layer in enumerate(layers):
        stacked = [name for name, weight in layer.named_parameters() if weight.dim() > 2]
        if stacked:
            raise NotCountedError(
                f"{what} {number} holds a stack of matrices ({stacked[0]}), of which a token runs through some only, as in "
                "a mixture of experts: FLOPs are not counted"
            )
        counts.add(matrices(layer))
    if len(counts) != 1:
        raise NotCountedError(
            f"the {what}s of this model hold {sorted(counts)} weights: FLOPs are not counted where they differ"
        )
    return counts.pop()
