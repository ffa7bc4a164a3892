"""Where the spans of prompts lie in a padded batch, and what changes when an extension is inserted (Eq. 5 and 6).

A row is [padding; system; visual; extension; text; padding], where the text may hold the rest of the prompt and an answer
to it. The visual span reaches from the first to the last visual token of a picture, tiles and separators included; the
*base view* is its part that shows the whole picture as a grid.

Axes: B rows, S columns of the input, N columns at one layer (S, or S + X with an extension), X tokens of an
extension, V = H x W cells of a base view, C axes of positions (1, or 3 of M-RoPE), d hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from blink.model.families import Grid
from blink.model.token_sr import Box, check_patches


class Placement(NamedTuple):
    """Where the tokens of an extension stand.

    "region" takes the position of the nearest cell, a whole number on every axis, as all that the backbone has seen. A position
    between cells would lie at most (p - 1) / 2p of a cell from it, a quarter for p = 2, and changed 0 to 5 of 856 answers where
    that could be measured (docs/log.md); in 1-D only columns could have one, since half a row is half a picture's width away.

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
        visual_starts: of each row, first column of the visual span.
        visual_ends: column after the visual span, where an extension begins.
        lasts: column of the last prompt token; behind it an answer may follow.
        base_starts: first column of the base view, whose H x W tokens stand side by side.
        grids: (H, W) of each row's base view.
        position_CBN: int64 position ids, [C, 1, N] if rows do not differ.
        placements: where each row's extension stands; empty without one.
    """

    columns: int
    valid_BN: Tensor | None
    visual_starts: tuple[int, ...]
    visual_ends: tuple[int, ...]
    lasts: tuple[int, ...]
    base_starts: tuple[int, ...]
    grids: tuple[Grid, ...]
    position_CBN: Tensor
    placements: tuple[Placement, ...] = ()

    # Columns are numbers of the host, so that asking whether rows agree does not wait for a GPU.
    @cached_property
    def _device_ends(self) -> Tensor:
        """`visual_ends` as int64 on the prompt's device."""
        return from_host(self.visual_ends, self.position_CBN.device)

    @cached_property
    def _device_lasts(self) -> Tensor:
        """`lasts` as int64 on the prompt's device."""
        return from_host(self.lasts, self.position_CBN.device)

    @cached_property
    def _last(self) -> int | None:
        """The column that all rows have their last prompt token in, if they agree."""
        return common(self.lasts)

    def to(self, device: torch.device) -> "Spans":
        """The same with all that is on a device on this one."""
        if device == self.position_CBN.device:
            return self
        valid_BN = None if self.valid_BN is None else self.valid_BN.to(device)
        return replace(self, valid_BN=valid_BN, position_CBN=self.position_CBN.to(device))

    @property
    def extension(self) -> int:
        """X, tokens of the extension; 0 without one."""
        return self.placements[0].size[0] * self.placements[0].size[1] if self.placements else 0

    def select(self, rows: list[int]) -> "Spans":
        """The spans of some rows, in the order given."""
        if rows == list(range(len(self.lasts))):
            return self
        one = self.position_CBN.shape[1] == 1
        index_b = from_host(rows, self.position_CBN.device)
        return replace(
            self,
            valid_BN=None if self.valid_BN is None else self.valid_BN[index_b],
            visual_starts=tuple(self.visual_starts[row] for row in rows),
            visual_ends=tuple(self.visual_ends[row] for row in rows),
            lasts=tuple(self.lasts[row] for row in rows),
            base_starts=tuple(self.base_starts[row] for row in rows),
            grids=tuple(self.grids[row] for row in rows),
            position_CBN=self.position_CBN if one else self.position_CBN[:, index_b],
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
            lasts=tuple(last + extension for last in self.lasts),
            position_CBN=self._extended_positions(placements, extension),
            placements=tuple(placements),
        )

    def next_position(self) -> Tensor:
        """Position of the token that follows each row: int64 [B], the same on all axes."""
        position_CBN = self.position_CBN
        if self.valid_BN is not None:
            position_CBN = position_CBN.masked_fill(~self.valid_BN, 0)
        return (position_CBN.amax(dim=(0, 2)) + 1).expand(len(self.lasts))

    def visual(self, hidden_BNd: Tensor, grid: Grid) -> Tensor:
        """The base view's tokens of each row, all of this grid: [B, V, d]; of [B, N] it is [B, V]."""
        V, start = grid[0] * grid[1], common(self.base_starts)
        if start is not None:
            return hidden_BNd[:, start : start + V]
        device = hidden_BNd.device
        return _take(
            hidden_BNd, from_host(self.base_starts, device)[:, None] + torch.arange(V, device=device)
        )

    def last(self, of_BNd: Tensor, dim: int = 1) -> Tensor:
        """What stands at the last prompt token of each row: [B, d]; with dim=2 [B, A, E] of [B, A, N, E]."""
        if self._last is not None:  # a slice costs a scan less than picking columns row by row
            return of_BNd.select(dim, self._last)
        return _take(of_BNd.transpose(1, dim), self._device_lasts[:, None])[:, 0]

    @cached_property
    def seen_by_last(self) -> Tensor | None:
        """Bool [B, N]: the columns that the last prompt token attends to, neither padding nor what follows the prompt.

        None where those are all.
        """
        if self.valid_BN is None and self._last == self.columns - 1:
            return None
        seen_BN = torch.arange(self.columns, device=self.position_CBN.device) <= self._device_lasts[:, None]
        return seen_BN if self.valid_BN is None else seen_BN & self.valid_BN

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
        after_BS = column_S >= self._device_ends[:, None]
        return _take(hidden_BNd, column_S + self.extension * after_BS)

    def take_extension(self, hidden_BNd: Tensor) -> Tensor:
        """The tokens of the extension: [B, X, d]."""
        return _take(
            hidden_BNd, self._device_ends[:, None] + torch.arange(self.extension, device=hidden_BNd.device)
        )

    def _extended_positions(self, placements: Sequence[Placement], extension: int) -> Tensor:
        """Position ids [C, B, N + X] with an extension in every row; the text behind it moves on by its shift."""
        B, C = len(self.grids), len(self.position_CBN)
        position_CBN = self.position_CBN.expand(-1, B, -1)
        end_CB1 = position_CBN.gather(2, self._device_ends[None, :, None].expand(C, -1, -1))
        parts, shifts = [], []
        for row, (placement, (H, W)) in enumerate(zip(placements, self.grids, strict=True)):
            start = self.base_starts[row]
            cell_CV = position_CBN[:, row, start : start + H * W]
            parts.append(placement.positions(cell_CV, (H, W), end_CB1[0, row]))
            shifts.append(placement.shift(C))
        column_N = torch.arange(self.columns, device=position_CBN.device)
        text_BN = column_N >= self._device_ends[:, None]
        if self.valid_BN is not None:
            text_BN = text_BN & self.valid_BN
        moved_CBN = position_CBN + text_BN * from_host(shifts, position_CBN.device)[:, None]
        joined_CBM = torch.cat((moved_CBN, torch.stack(parts, dim=1)), dim=2)
        return joined_CBM.gather(2, self._source_columns(extension).expand(C, -1, -1))

    def _is_extension(self, extension: int) -> Tensor:
        """Bool [B, N + X]: the columns that `extension` tokens after the visual span would take."""
        column = torch.arange(self.columns + extension, device=self.position_CBN.device)
        end_B1 = self._device_ends[:, None]
        return (column >= end_B1) & (column < end_B1 + extension)

    def _source_columns(self, extension: int) -> Tensor:
        """Int64 [B, N + X]: where each column comes from in [row; extension]."""
        column = torch.arange(self.columns + extension, device=self.position_CBN.device)
        end_B1 = self._device_ends[:, None]
        shifted = torch.where(column < end_B1, column, column - extension)
        return torch.where(self._is_extension(extension), self.columns + column - end_B1, shifted)


def check_grids(spans: Spans, patches: int) -> None:
    """Raise ValueError, which names the row, where a base view is too narrow to be split into p x p regions."""
    for row, grid in enumerate(spans.grids):
        check_patches(patches, grid, f"row {row} of the prompt: ")


def common(columns: Sequence[int]) -> int | None:
    """The column that all rows agree on, if they do."""
    return columns[0] if len(set(columns)) == 1 else None


def from_host(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Numbers as an int64 tensor on a device; the host waits for no GPU, as it does where it copies from ordinary memory."""
    made = torch.tensor(numbers, dtype=torch.int64)
    if device.type != "cuda":
        return made.to(device)
    return made.pin_memory().to(device, non_blocking=True)


def _take(hidden_BNd: Tensor, columns_BM: Tensor) -> Tensor:
    """Pick columns per row: [B, M, d]."""
    rows_B1 = torch.arange(hidden_BNd.shape[0], device=hidden_BNd.device)[:, None]
    return hidden_BNd[rows_B1, columns_BM]


def pick(of_B: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of a batch, in the order given; `of_B[rows]` would wait for a GPU."""
    return of_B[from_host(rows, of_B.device)]
