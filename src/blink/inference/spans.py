"""Where the spans of a prompt lie in a padded batch, and what changes when an extension is inserted (Eq. 5 and 6).

A row is [padding; system; visual; extension; text; padding], where the text may hold the rest of the prompt and an answer
to it. The visual span reaches from the first to the last visual token of a picture, tiles and separators included; the
*base view* is its part that shows the whole picture as a grid.

Axes: B rows, S columns of the input, N columns at one layer (S, or S + X with an extension), X tokens of an
extension, V = H x W cells of a base view, C axes of positions (1, or 3 of M-RoPE), d hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.model.backbone import Backbone
from blink.model.families import Family, Grid, text_positions
from blink.model.families.base import count_runs
from blink.model.token_sr import Box, check_patches
from blink.runs.values import UserError


class Placement(NamedTuple):
    """Where the tokens of an extension stand.

    Attributes:
        size: rows and columns of the extension.
        refines: the cells of the base view whose positions they take (`Policy.positions="region"`); None: they stand
            behind the picture as a second one would ("append", the paper).
    """

    size: Grid
    refines: Box | None = None

    def positions(self, cell_CV: Tensor, grid: Grid, end: int | Tensor) -> Tensor:
        """Position ids of the extension: int64 [C, X].

        Args:
            cell_CV: position ids of the base view, row-major.
            grid: of the base view.
            end: position of the token behind the visual span, on all axes.
        """
        (h, w), box, device = self.size, self.refines, cell_CV.device
        if box is not None:
            # The nearest cell: its centre, and that of the token, as shares of the region's height and width.
            row_h = box.top + (2 * torch.arange(h, device=device) + 1) * box.height // (2 * h)
            column_w = box.left + (2 * torch.arange(w, device=device) + 1) * box.width // (2 * w)
            return cell_CV[:, (row_h[:, None] * grid[1] + column_w).flatten()]
        if len(cell_CV) == 1:
            return end + torch.arange(h * w, device=device)[None]
        # As transformers' get_rope_index places a picture: one time, a row and a column for each token.
        i_X = torch.arange(h, device=device).repeat_interleave(w)
        j_X = torch.arange(w, device=device).repeat(h)
        return end + torch.stack((torch.zeros_like(i_X), i_X, j_X))

    def shift(self, axes: int) -> int:
        """By how much the positions of the text behind it grow."""
        if self.refines is not None:
            return 0
        return self.size[0] * self.size[1] if axes == 1 else max(self.size)


@dataclass(frozen=True)
class Spans:
    """The columns of system, visual and text tokens in each row; rows share the width N and the extension's length.

    Attributes:
        columns: N.
        valid_BN: bool, False at padding; None if no row is padded.
        visual_start_B: int64, first column of the visual span.
        visual_end_B: int64, column after the visual span, where an extension begins.
        last_B: int64, column of the last prompt token; behind it an answer may follow.
        base_start_B: int64, first column of the base view, whose H x W tokens stand side by side.
        grids: (H, W) of each row's base view.
        position_CBN: int64 position ids, [C, 1, N] if rows do not differ.
        placements: where each row's extension stands; empty without one.
    """

    columns: int
    valid_BN: Tensor | None
    visual_start_B: Tensor
    visual_end_B: Tensor
    last_B: Tensor
    base_start_B: Tensor
    grids: tuple[Grid, ...]
    position_CBN: Tensor
    placements: tuple[Placement, ...] = ()

    @property
    def extension(self) -> int:
        """X, tokens of the extension; 0 without one."""
        return self.placements[0].size[0] * self.placements[0].size[1] if self.placements else 0

    def select(self, rows: list[int]) -> "Spans":
        """The spans of some rows, in the order given."""
        if rows == list(range(len(self.last_B))):
            return self
        one = self.position_CBN.shape[1] == 1
        return replace(
            self,
            valid_BN=None if self.valid_BN is None else self.valid_BN[rows],
            visual_start_B=self.visual_start_B[rows],
            visual_end_B=self.visual_end_B[rows],
            last_B=self.last_B[rows],
            base_start_B=self.base_start_B[rows],
            grids=tuple(self.grids[row] for row in rows),
            position_CBN=self.position_CBN if one else self.position_CBN[:, rows],
            placements=tuple(self.placements[row] for row in rows) if self.placements else (),
        )

    @cached_property
    def rows_by_grid(self) -> dict[Grid, list[int]]:
        """Rows whose base views have one grid."""
        rows: dict[Grid, list[int]] = {}
        for row, grid in enumerate(self.grids):
            rows.setdefault(grid, []).append(row)
        return rows

    def extended(self, placements: Sequence[Placement]) -> "Spans":
        """The spans once an extension stands after the visual span of every row, all of one length."""
        assert not self.placements, "at most one extension is alive"
        extension = placements[0].size[0] * placements[0].size[1]
        valid_BN = self.valid_BN
        if valid_BN is not None:
            valid_BN = valid_BN.take_along_dim(
                self._source_columns(extension).clamp(max=self.columns - 1), dim=1
            )
            valid_BN = valid_BN | self._is_extension(extension)
        return replace(
            self,
            columns=self.columns + extension,
            valid_BN=valid_BN,
            last_B=self.last_B + extension,
            position_CBN=self._extended_positions(placements, extension),
            placements=tuple(placements),
        )

    def next_position(self) -> Tensor:
        """Position of the token that follows each row: int64 [B], the same on all axes."""
        position_CBN = self.position_CBN
        if self.valid_BN is not None:
            position_CBN = position_CBN.masked_fill(~self.valid_BN, 0)
        return (position_CBN.amax(dim=(0, 2)) + 1).expand(len(self.last_B))

    def visual(self, hidden_BNd: Tensor, grid: Grid) -> Tensor:
        """The base view's tokens of each row, all of this grid: [B, V, d]; of [B, N] it is [B, V]."""
        V, start = grid[0] * grid[1], self._common_base_start
        if start is not None:
            return hidden_BNd[:, start : start + V]
        column_BV = self.base_start_B[:, None] + torch.arange(V, device=self.last_B.device)
        return _take(hidden_BNd, column_BV)

    def last(self, of_BNd: Tensor) -> Tensor:
        """What stands at the last prompt token of each row: [B, d]."""
        column = self._common_last
        return of_BNd[:, column] if column is not None else _take(of_BNd, self.last_B[:, None])[:, 0]

    @cached_property
    def seen_by_last(self) -> Tensor | None:
        """Bool [B, N]: the columns that the last prompt token attends to, neither padding nor what follows the prompt.

        None where those are all.
        """
        if self.valid_BN is None and self._common_last == self.columns - 1:
            return None
        seen_BN = torch.arange(self.columns, device=self.last_B.device) <= self.last_B[:, None]
        return seen_BN if self.valid_BN is None else seen_BN & self.valid_BN

    # Rows often agree, and a slice costs a scan less than picking columns row by row.
    @cached_property
    def _common_last(self) -> int | None:
        return _common(self.last_B)

    @cached_property
    def _common_base_start(self) -> int | None:
        return _common(self.base_start_B)

    def insert(self, hidden_BSd: Tensor, extension_BXd: Tensor) -> Tensor:
        """Insert an extension right after the visual span of every row: [B, S + X, d]."""
        joined = torch.cat((hidden_BSd, extension_BXd), dim=1)
        return _take(joined, self._source_columns(extension_BXd.shape[1]))

    def spread(self, of_BSd: Tensor) -> Tensor:
        """What belongs to the input's tokens, at their columns in the sequence as it stands, 0 at the extension: [B, N, d]."""
        if not self.extension:
            return of_BSd
        without = replace(self, columns=self.columns - self.extension, placements=())
        B, _, d = of_BSd.shape
        return without.insert(of_BSd, of_BSd.new_zeros(B, self.extension, d))

    def remove(self, hidden_BNd: Tensor) -> Tensor:
        """Take the extension, if any, out of every row: [B, S, d]."""
        if not self.extension:
            return hidden_BNd
        column_S = torch.arange(self.columns - self.extension, device=hidden_BNd.device)
        after_BS = column_S >= self.visual_end_B[:, None]
        return _take(hidden_BNd, column_S + self.extension * after_BS)

    def take_extension(self, hidden_BNd: Tensor) -> Tensor:
        """The tokens of the extension: [B, X, d]."""
        return _take(
            hidden_BNd, self.visual_end_B[:, None] + torch.arange(self.extension, device=hidden_BNd.device)
        )

    def _extended_positions(self, placements: Sequence[Placement], extension: int) -> Tensor:
        """Position ids [C, B, N + X] with an extension in every row; the text behind it moves on by its shift."""
        B, C = len(self.grids), len(self.position_CBN)
        position_CBN = self.position_CBN.expand(-1, B, -1)
        end_CB1 = position_CBN.gather(2, self.visual_end_B[None, :, None].expand(C, -1, -1))
        parts, shifts = [], []
        for row, (placement, (H, W)) in enumerate(zip(placements, self.grids, strict=True)):
            start = self.base_start_B[row]
            cell_CV = position_CBN[:, row, start : start + H * W]
            parts.append(placement.positions(cell_CV, (H, W), end_CB1[0, row]))
            shifts.append(placement.shift(C))
        column_N = torch.arange(self.columns, device=position_CBN.device)
        text_BN = column_N >= self.visual_end_B[:, None]
        if self.valid_BN is not None:
            text_BN = text_BN & self.valid_BN
        moved_CBN = position_CBN + text_BN * torch.tensor(shifts, device=position_CBN.device)[:, None]
        joined_CBM = torch.cat((moved_CBN, torch.stack(parts, dim=1)), dim=2)
        return joined_CBM.gather(2, self._source_columns(extension).expand(C, -1, -1))

    def _is_extension(self, extension: int) -> Tensor:
        """Bool [B, N + X]: the columns that `extension` tokens after the visual span would take."""
        column = torch.arange(self.columns + extension, device=self.last_B.device)
        end_B1 = self.visual_end_B[:, None]
        return (column >= end_B1) & (column < end_B1 + extension)

    def _source_columns(self, extension: int) -> Tensor:
        """Int64 [B, N + X]: where each column comes from in [row; extension]."""
        column = torch.arange(self.columns + extension, device=self.last_B.device)
        end_B1 = self.visual_end_B[:, None]
        shifted = torch.where(column < end_B1, column, column - extension)
        return torch.where(self._is_extension(extension), self.columns + column - end_B1, shifted)


def prompt_spans(
    backbone: Backbone,
    inputs: Mapping[str, Any],
    valid_BS: Tensor | None,
    ends: Sequence[int] | None = None,
    labels_BS: Tensor | None = None,
) -> Spans:
    """The spans of prompts with one picture each, with base views and positions as the backbone's family has them.

    Args:
        inputs: the processor's output, or the arguments of the model's forward.
        valid_BS, ends, labels_BS: see `find_spans`.

    Raises:
        ValueError: as `find_spans`.
    """
    family, ids_BS = backbone.family, inputs["input_ids"]
    spans = find_spans(ids_BS, valid_BS, family.image_token_id, ends, labels_BS, family=family)
    grids = tuple(family.grids(inputs, len(ids_BS)))
    start_B = spans.visual_start_B
    if len(grids) != len(ids_BS):
        raise UserError(
            f"the prompt has {len(ids_BS)} rows and {len(grids)} images; Blink takes exactly one image per sample"
        )
    if family.base_view_last:
        start_B = spans.visual_end_B - torch.tensor([H * W for H, W in grids], device=start_B.device)
    positions_CBS = family.positions(ids_BS, valid_BS, inputs)
    return replace(spans, base_start_B=start_B, grids=grids, position_CBN=positions_CBS)


def check_grids(spans: Spans, patches: int) -> None:
    """Raise ValueError, which names the row, where a base view is too narrow to be split into p x p regions."""
    for row, grid in enumerate(spans.grids):
        check_patches(patches, grid, f"row {row} of the prompt: ")


def find_spans(
    ids_BS: Tensor,
    valid_BS: Tensor | None,
    image_token_id: int,
    ends: Sequence[int] | None = None,
    labels_BS: Tensor | None = None,
    *,
    family: Family | None = None,
) -> Spans:
    """Find system, visual and text spans of every row; no base views, and positions 0 .. n-1.

    Args:
        ids_BS: token ids, with one image token per visual token.
        valid_BS: bool, False at padding, which may stand before or after a row; None if there is none.
        image_token_id: the id that stands for a visual token.
        ends: column of the last prompt token of each row, where an answer follows.
        labels_BS: without `ends`: the prompt ends before the first label that is not -100; None, or a row without such
            a label: at the row's last token.
        family: tells one picture from several, and its closing tokens from text; None: a picture is an unbroken run of
            image tokens, and all behind it is text.

    Raises:
        ValueError: unless each row has one picture with text after it, its padding lies outside its text, and its prompt
            ends within that text.
    """
    B, S = ids_BS.shape
    # As lists: one transfer from a GPU in place of many, and quicker than a dozen small kernels on a CPU.
    valid = [None] * B if valid_BS is None else valid_BS.tolist()
    starts, stops, lasts = [], [], []
    for row, (ids, seen) in enumerate(zip(ids_BS.tolist(), valid, strict=True)):
        first, last = (0, S - 1) if seen is None else _unbroken(row, seen)
        columns = [column for column in range(first, last + 1) if ids[column] == image_token_id]
        found = family.pictures(ids, columns) if family is not None else count_runs(ids, columns)
        if found != 1:
            said = "no image" if found == 0 else f"{found} separate images"
            raise UserError(f"row {row} of the prompt holds {said}; Blink takes exactly one image per sample")
        if columns[-1] + (0 if family is None else family.closing(ids, columns)) >= last:
            raise UserError(f"row {row} of the prompt ends at its image; put the question after the image")
        starts.append(columns[0])
        stops.append(columns[-1] + 1)
        lasts.append(last)
    start_B, end_B, last_B = torch.tensor([starts, stops, lasts], device=ids_BS.device)
    if ends is not None:
        last_B = _checked_ends(ends, end_B, last_B)
    elif labels_BS is not None:
        last_B = _ends_before_labels(labels_BS, ids_BS, end_B, last_B)
    return Spans(
        columns=S,
        valid_BN=valid_BS,
        visual_start_B=start_B,
        visual_end_B=end_B,
        last_B=last_B,
        base_start_B=start_B,
        grids=((0, 0),) * B,
        position_CBN=text_positions(valid_BS, S, ids_BS.device)[None],
    )


def _checked_ends(ends: Sequence[int], visual_end_B: Tensor, last_B: Tensor) -> Tensor:
    """Columns at which prompts end, int64 [B]; ValueError unless each lies in its row's text."""
    for row, (end, first, last) in enumerate(zip(ends, visual_end_B.tolist(), last_B.tolist(), strict=True)):
        if not first <= end <= last:
            raise UserError(
                f"prompt_end: row {row} is said to end at column {end}; its text behind the image lies in columns "
                f"{first} to {last}, padding left out: name the column of the prompt's last token, which is one of them"
            )
    return torch.tensor(ends, device=last_B.device)


def _ends_before_labels(labels_BS: Tensor, ids_BS: Tensor, visual_end_B: Tensor, last_B: Tensor) -> Tensor:
    """Columns before each row's first label that counts, int64 [B]; ValueError unless they lie in the text."""
    if labels_BS.shape != ids_BS.shape:
        raise UserError(
            f"labels are {list(labels_BS.shape)} and input_ids {list(ids_BS.shape)}: where the prompt ends cannot be read "
            "from them; give labels for every column, or say it with `with handle.prompt_end([...])`"
        )
    counts_BS = (labels_BS != -100).to(last_B.device)
    before_B = counts_BS.int().argmax(dim=1) - 1
    end_B = torch.where(counts_BS.any(dim=1), before_B, last_B).minimum(last_B)
    for row, (end, first) in enumerate(zip(end_B.tolist(), visual_end_B.tolist(), strict=True)):
        if end < first:
            raise UserError(
                f"row {row}: the first label that counts (not -100) is that of column {end + 1}, and the prompt ends "
                f"before it; expected one behind column {first}, for text of the prompt must follow the image: set labels "
                "of the prompt to -100, or say where it ends with `with handle.prompt_end([...])`"
            )
    return end_B


def _unbroken(row: int, seen: Sequence[bool]) -> tuple[int, int]:
    """First and last valid column of a row; raise unless all between them are valid."""
    valid = [column for column, is_seen in enumerate(seen) if is_seen]
    if not valid or valid[-1] - valid[0] + 1 != len(valid):
        runs = count_runs((), valid)
        raise UserError(
            f"row {row} of attention_mask has {runs} separate runs of ones; pad before or after a prompt only"
        )
    return valid[0], valid[-1]


def _common(column_B: Tensor) -> int | None:
    """The column that all rows agree on, if they do."""
    columns = set(column_B.tolist())
    return columns.pop() if len(columns) == 1 else None


def _take(hidden_BNd: Tensor, columns_BM: Tensor) -> Tensor:
    """Pick columns per row: [B, M, d]."""
    rows_B1 = torch.arange(hidden_BNd.shape[0], device=hidden_BNd.device)[:, None]
    return hidden_BNd[rows_B1, columns_BM]
