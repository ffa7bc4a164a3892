"""Finds the spans of prompts with one picture each, in a padded batch of token ids.

Axes: B rows, S columns of the input, C axes of positions (1, or 3 of M-RoPE).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blink.inference.spans import Spans
from blink.model.backbone import Backbone
from blink.model.families import Family, text_positions
from blink.model.families.base import count_runs
from blink.runs.values import UserError


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
