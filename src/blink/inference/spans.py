"""Where the spans of a prompt lie in a padded batch, and what changes when an extension is inserted (Eq. 5 and 6).

A row is [padding; system; visual; extension; text; padding], where the text may hold the rest of the prompt and an answer
to it. Positions count the tokens of the row as it stands, 0 .. n-1; padding takes none. Pure index arithmetic: this
file knows token ids and columns, no models.

Axes: B rows, S columns of the input, N columns at one layer (S, or S + X with an extension), X tokens of an
extension, d hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.runs.values import UserError


@dataclass(frozen=True)
class Spans:
    """The columns of system, visual and text tokens in each row; rows share the width N and the extension's length.

    Attributes:
        columns: N.
        valid_BN: bool, False at padding; None if no row is padded.
        visual_start_B: int64, first column of the visual span.
        visual_end_B: int64, column after the visual span, where an extension begins.
        last_B: int64, column of the last prompt token; behind it an answer may follow.
        extension: X, 0 without one.
    """

    columns: int
    valid_BN: Tensor | None
    visual_start_B: Tensor
    visual_end_B: Tensor
    last_B: Tensor
    extension: int = 0

    def select(self, rows: list[int]) -> "Spans":
        """The spans of some rows, in the order given."""
        if rows == list(range(len(self.last_B))):
            return self
        return replace(
            self,
            valid_BN=None if self.valid_BN is None else self.valid_BN[rows],
            visual_start_B=self.visual_start_B[rows],
            visual_end_B=self.visual_end_B[rows],
            last_B=self.last_B[rows],
        )

    def extended(self, extension: int) -> "Spans":
        """The spans once `extension` tokens stand after the visual span of every row."""
        assert self.extension == 0, "at most one extension is alive"
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
            extension=extension,
        )

    def positions(self) -> Tensor:
        """Position ids [1, N] without padding, else [B, N] with 0 at padding."""
        return positions(self.valid_BN, self.columns, self.last_B.device)

    def visual(self, hidden_BNd: Tensor, count: int) -> Tensor:
        """The first `count` visual tokens of each row, [B, count, d]."""
        return _take(hidden_BNd, self.visual_columns(count))

    def visual_columns(self, count: int) -> Tensor:
        """Columns of the first `count` visual tokens: int64 [B, count]."""
        return self.visual_start_B[:, None] + torch.arange(count, device=self.last_B.device)

    def last(self, of_BNd: Tensor) -> Tensor:
        """What stands at the last prompt token of each row: [B, d]."""
        return _take(of_BNd, self.last_B[:, None])[:, 0]

    def seen_by_last(self) -> Tensor:
        """Bool [B, N]: the columns that the last prompt token attends to, neither padding nor what follows the prompt."""
        seen_BN = torch.arange(self.columns, device=self.last_B.device) <= self.last_B[:, None]
        return seen_BN if self.valid_BN is None else seen_BN & self.valid_BN

    def insert(self, hidden_BSd: Tensor, extension_BXd: Tensor) -> Tensor:
        """Insert an extension right after the visual span of every row: [B, S + X, d]."""
        joined = torch.cat((hidden_BSd, extension_BXd), dim=1)
        return _take(joined, self._source_columns(extension_BXd.shape[1]))

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


def positions(valid_BN: Tensor | None, columns: int, device: torch.device) -> Tensor:
    """Position ids 0 .. n-1 over the valid columns: [1, N] without padding, else [B, N] with 0 at padding."""
    if valid_BN is None:
        return torch.arange(columns, device=device)[None]
    return (valid_BN.long().cumsum(dim=1) - 1).masked_fill(~valid_BN, 0)


def find_spans(
    ids_BS: Tensor,
    valid_BS: Tensor | None,
    image_token_id: int,
    ends: Sequence[int] | None = None,
    labels_BS: Tensor | None = None,
) -> Spans:
    """Find system, visual and text spans of every row.

    Args:
        ids_BS: token ids, with one image token per visual token.
        valid_BS: bool, False at padding, which may stand before or after a row; None if there is none.
        image_token_id: the id that stands for a visual token.
        ends: column of the last prompt token of each row, where an answer follows.
        labels_BS: without `ends`: the prompt ends before the first label that is not -100; None, or a row without such
            a label: at the row's last token.

    Raises:
        ValueError: unless each row has one unbroken run of image tokens with text after it, its padding lies outside
            its text, and its prompt ends within that text.
    """
    S = ids_BS.shape[1]
    visual_BS = ids_BS == image_token_id
    if valid_BS is not None:
        visual_BS = visual_BS & valid_BS
        _check_unbroken(valid_BS)
    runs_B = _run_starts(visual_BS).sum(dim=1)
    for row, runs in enumerate(runs_B.tolist()):
        if runs != 1:
            found = "no image" if runs == 0 else f"{runs} separate images"
            raise UserError(
                f"row {row} of the prompt holds {found}; Blink takes exactly one image per sample"
            )
    start_B = visual_BS.int().argmax(dim=1)
    end_B = start_B + visual_BS.sum(dim=1)
    last_B = torch.full_like(start_B, S - 1)
    if valid_BS is not None:
        last_B = S - 1 - valid_BS.flip(1).int().argmax(dim=1)
    for row, empty in enumerate((last_B < end_B).tolist()):
        if empty:
            raise UserError(f"row {row} of the prompt ends at its image; put the question after the image")
    if ends is not None:
        last_B = _checked_ends(ends, end_B, last_B)
    elif labels_BS is not None:
        last_B = _ends_before_labels(labels_BS, ids_BS, end_B, last_B)
    return Spans(columns=S, valid_BN=valid_BS, visual_start_B=start_B, visual_end_B=end_B, last_B=last_B)


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


def _check_unbroken(valid_BS: Tensor) -> None:
    """Raise unless the valid columns of each row form one run."""
    for row, runs in enumerate(_run_starts(valid_BS).sum(dim=1).tolist()):
        if runs != 1:
            raise UserError(
                f"row {row} of attention_mask has {runs} separate runs of ones; pad before or after a prompt only"
            )


def _run_starts(flags_BS: Tensor) -> Tensor:
    """Bool [B, S]: where a run of True begins."""
    return flags_BS & ~F.pad(flags_BS, (1, 0))[:, :-1]


def _take(hidden_BNd: Tensor, columns_BM: Tensor) -> Tensor:
    """Pick columns per row: [B, M, d]."""
    rows_B1 = torch.arange(hidden_BNd.shape[0], device=hidden_BNd.device)[:, None]
    return hidden_BNd[rows_B1, columns_BM]
