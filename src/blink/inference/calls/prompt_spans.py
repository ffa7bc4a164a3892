"""Finds the spans of prompts with one picture each, in a padded batch of token ids.

Axes: B rows, S columns of the input, C axes of positions (1, or 3 of M-RoPE).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.inference.spans import Spans
from blink.model.backbone import Backbone
from blink.model.families import Family, text_positions
from blink.model.families.base import count_runs
from blink.runs.values import UserError


class HostPrompts(NamedTuple):
    """Token ids of a batch of prompts, and which are no padding, as lists; `valid` is None where none is padded."""

    ids: list[list[int]]
    valid: list[list[bool]] | None

    def prompt(self, row: int, last: int) -> list[int]:
        """The ids of a row up to its prompt's last column, padding left out."""
        ids = self.ids[row][: last + 1]
        return ids if self.valid is None else list(compress(ids, self.valid[row]))


def read_prompts(ids_BS: Tensor, mask_BS: Tensor | None) -> HostPrompts:
    """Read ids and attention mask; from a GPU in one transfer, for which the host waits once."""
    if mask_BS is None:
        return HostPrompts(ids_BS.tolist(), None)
    ids, numbers = torch.stack((ids_BS, (mask_BS != 0).to(ids_BS))).tolist()
    if all(map(all, numbers)):
        return HostPrompts(ids, None)
    return HostPrompts(ids, [[number != 0 for number in row] for row in numbers])


def prompt_spans(
    backbone: Backbone,
    inputs: Mapping[str, Any],
    valid_BS: Tensor | None,
    ends: Sequence[int] | None = None,
    labels_BS: Tensor | None = None,
    read: HostPrompts | None = None,
) -> Spans:
    """The spans of prompts with one picture each, with base views and positions as the backbone's family has them.

    Args:
        inputs: the processor's output, or the arguments of the model's forward.
        valid_BS, ends, labels_BS, read: see `find_spans`.

    Raises:
        ValueError: as `find_spans`.
    """
    family, ids_BS = backbone.family, inputs["input_ids"]
    spans = find_spans(ids_BS, valid_BS, family.image_token_id, ends, labels_BS, family=family, read=read)
    grids = tuple(family.grids(inputs, len(ids_BS)))
    starts = spans.visual_starts
    if len(grids) != len(ids_BS):
        raise UserError(
            f"the prompt has {len(ids_BS)} rows and {len(grids)} images; Blink takes exactly one image per sample"
        )
    if family.base_view_last:
        starts = tuple(end - H * W for end, (H, W) in zip(spans.visual_ends, grids, strict=True))
    positions_CBS = family.positions(ids_BS, valid_BS, inputs)
    return replace(spans, base_starts=starts, grids=grids, position_CBN=positions_CBS)


def find_spans(
    ids_BS: Tensor,
    valid_BS: Tensor | None,
    image_token_id: int,
    ends: Sequence[int] | None = None,
    labels_BS: Tensor | None = None,
    *,
    family: Family | None = None,
    read: HostPrompts | None = None,
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
        read: `ids_BS` and `valid_BS`, where they were read before.

    Raises:
        ValueError: unless each row has one picture with text after it, its padding lies outside its text, and its prompt
            ends within that text.
    """
    B, S = ids_BS.shape
    read = read or read_prompts(ids_BS, valid_BS)
    valid = [None] * B if read.valid is None else read.valid
    starts, stops, lasts = [], [], []
    for row, (ids, seen) in enumerate(zip(read.ids, valid, strict=True)):
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
    if ends is not None:
        lasts = _checked_ends(ends, stops, lasts)
    elif labels_BS is not None:
        lasts = _ends_before_labels(labels_BS, ids_BS, stops, lasts)
    return Spans(
        columns=S,
        valid_BN=valid_BS,
        visual_starts=tuple(starts),
        visual_ends=tuple(stops),
        lasts=tuple(lasts),
        base_starts=tuple(starts),
        grids=((0, 0),) * B,
        position_CBN=text_positions(valid_BS, S, ids_BS.device)[None],
    )


def _checked_ends(ends: Sequence[int], visual_ends: Sequence[int], lasts: Sequence[int]) -> list[int]:
    """Columns at which prompts end; ValueError unless each lies in its row's text."""
    for row, (end, first, last) in enumerate(zip(ends, visual_ends, lasts, strict=True)):
        if not first <= end <= last:
            raise UserError(
                f"prompt_end: row {row} is said to end at column {end}; its text behind the image lies in columns "
                f"{first} to {last}, padding left out: name the column of the prompt's last token, which is one of them"
            )
    return list(ends)


def _ends_before_labels(
    labels_BS: Tensor, ids_BS: Tensor, visual_ends: Sequence[int], lasts: Sequence[int]
) -> list[int]:
    """Columns before each row's first label that counts; ValueError unless they lie in the text."""
    if labels_BS.shape != ids_BS.shape:
        raise UserError(
            f"labels are {list(labels_BS.shape)} and input_ids {list(ids_BS.shape)}: where the prompt ends cannot be read "
            "from them; give labels for every column, or say it with `with handle.prompt_end([...])`"
        )
    counts_BS = labels_BS != -100
    # the first one that counts, or the number of columns
    first_B = torch.where(counts_BS.any(dim=1), counts_BS.int().argmax(dim=1), labels_BS.shape[1])
    ends = [min(found - 1, last) for found, last in zip(first_B.tolist(), lasts, strict=True)]
    for row, (end, first) in enumerate(zip(ends, visual_ends, strict=True)):
        if end < first:
            raise UserError(
                f"row {row}: the first label that counts (not -100) is that of column {end + 1}, and the prompt ends "
                f"before it; expected one behind column {first}, for text of the prompt must follow the image: set labels "
                "of the prompt to -100, or say where it ends with `with handle.prompt_end([...])`"
            )
    return ends


def _unbroken(row: int, seen: Sequence[bool]) -> tuple[int, int]:
    """First and last valid column of a row; raise unless all between them are valid."""
    valid = [column for column, is_seen in enumerate(seen) if is_seen]
    if not valid or valid[-1] - valid[0] + 1 != len(valid):
        runs = count_runs((), valid)
        raise UserError(
            f"row {row} of attention_mask has {runs} separate runs of ones; pad before or after a prompt only"
        )
    return valid[0], valid[-1]
