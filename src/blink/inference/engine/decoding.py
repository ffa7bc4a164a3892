"""Greedy decoding of rows that went through every layer: one token of each unfinished row at a time.

Every token attends to what each layer holds: the trunk, the extension that lived there at the prompt, and the row's
own text and answer so far, at the position that follows in that layer.

Legend: R rows, r unfinished rows, V the vocabulary, T columns of text, M columns of a row's own keys, K key heads, E width of one head,
d hidden width.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.generation import GenerationConfig, LogitsProcessor

from blink.inference.cache import KeysValues, OneCall
from blink.inference.engine.rows import Blocks, Rows, Shared
from blink.inference.engine.trunk import Extension
from blink.runs.values import NotFiniteError, UserError

NOT_FINITE = -1
"""Stands for the id of a token that cannot be chosen."""


@dataclass
class _Unfinished:
    """KV cache of the rows whose answer has not ended.

    Attributes:
        rows: their indices.
        own: keys and values of their text and answer, per layer, [r, K, M, E].
        extensions: per layer, one or None per row.
        valid_rM: bool, False at padding.
        offset_r: position of the next token, counted from the end of trunk and extension.
    """

    rows: list[int]
    own: list[KeysValues]
    extensions: list[list[Extension | None]]
    valid_rM: Tensor
    offset_r: Tensor

    def keep(self, indices: list[int]) -> None:
        """Keep the rows at these indices of `rows`, in that order."""
        if indices == list(range(len(self.rows))):
            return
        self.rows = [self.rows[index] for index in indices]
        self.own = [KeysValues(*(tensor[indices] for tensor in layer)) for layer in self.own]
        self.extensions = [[layer[index] for index in indices] for layer in self.extensions]
        self.valid_rM, self.offset_r = self.valid_rM[indices], self.offset_r[indices]


def decode(shared: Shared, rows: Rows, *, closing: Collection[int], max_new_tokens: int) -> list[list[int]]:
    """The answer's ids of each row, up to a closing token or `max_new_tokens`; `rows` stay as they are.

    Raises:
        NotFiniteError: the largest logit of a row is no number, or infinite; names the row's prompt.
    """
    unfinished = _Unfinished(
        rows=list(range(len(rows))),
        own=[layer.gather() for layer in rows.cache],
        extensions=[layer.extensions for layer in rows.cache],
        valid_rM=rows.valid(),
        offset_r=torch.tensor(rows.lengths, device=rows.hidden_RTd.device),
    )
    hidden_rd = rows.last(rows.hidden_RTd)
    answers: list[list[int]] = [[] for _ in unfinished.rows]
    while True:
        ids = _largest(shared, hidden_rd)
        if NOT_FINITE in ids:
            raise NotFiniteError(
                "the logits of its next token", sample=rows.prompts[unfinished.rows[ids.index(NOT_FINITE)]]
            )
        for row, token in zip(unfinished.rows, ids, strict=True):
            answers[row].append(token)
        indices = [index for index, token in enumerate(ids) if token not in closing]
        # All unfinished answers are of one length, so the first says whether there may be another token.
        if not indices or len(answers[unfinished.rows[indices[0]]]) == max_new_tokens:
            return answers
        unfinished.keep(indices)
        ids_r = torch.tensor([ids[index] for index in indices], device=hidden_rd.device)
        hidden_rd = _step(shared, unfinished, ids_r)


def closing_tokens(model: Any) -> frozenset[int]:
    """Ids at which an answer ends, where the largest logit is taken as it is.

    Raises:
        ValueError: the config changes logits before the largest is taken (repetition_penalty, suppress_tokens, ...).
    """
    config = copy.deepcopy(model.generation_config)
    config.update(do_sample=False, num_beams=1, max_length=None)
    changes = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    if changes:
        names = ", ".join(type(change).__name__ for change in changes)
        raise UserError(
            f"the model's generation_config asks for {names}; the engine takes the largest logit as it is: unset that, "
            "or use attach and generate (engine.reuse=none)"
        )
    return closing_ids(config)


def closing_ids(config: GenerationConfig) -> frozenset[int]:
    """Ids at which an answer ends; none if the config names none."""
    ids = config.eos_token_id
    return frozenset(() if ids is None else ids if isinstance(ids, Sequence) else (ids,))


class FiniteLogits(LogitsProcessor):
    """For `generate`: raises NotFiniteError where a row's largest logit is nan or infinite, and changes nothing."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores [B, vocabulary] as they are."""
        ids: list[int] = largest(scores).tolist()
        if NOT_FINITE in ids:
            raise NotFiniteError("the logits of its next token", sample=ids.index(NOT_FINITE))
        return scores


def largest(logits_rV: Tensor) -> Tensor:
    """The id of the largest logit of each row, int64 [r]: `NOT_FINITE` where one is nan, or the largest infinite."""
    logits_rV = logits_rV.float()
    ids_r = logits_rV.argmax(dim=-1)  # nan counts as larger than any number
    largest_r = logits_rV.gather(-1, ids_r[:, None])[:, 0]
    return ids_r.where(largest_r.isfinite(), NOT_FINITE)


def _largest(shared: Shared, hidden_rd: Tensor) -> list[int]:
    """The id of the largest logit of each row, `NOT_FINITE` where that is nan or infinite."""
    ids: list[int] = largest(shared.backbone.logits(shared.backbone.final_norm(hidden_rd))).tolist()
    return ids


def _step(shared: Shared, unfinished: _Unfinished, ids_r: Tensor) -> Tensor:
    """Run one token of each row through every layer, its keys and values into the cache: [r, d]."""
    backbone = shared.backbone
    hidden_r1d = backbone.embed(ids_r)[:, None]
    unfinished.valid_rM = F.pad(unfinished.valid_rM, (0, 1), value=True)
    for layer in range(backbone.num_layers):
        extensions = unfinished.extensions[layer]
        call = OneCall(unfinished.own[layer])
        frame = shared.frame_at(extensions, unfinished.offset_r[:, None])
        blocks = Blocks(shared, layer, extensions, unfinished.valid_rM[:, None])
        hidden_r1d = backbone.run_layer(layer, hidden_r1d, frame, call, blocks)
        unfinished.own[layer] = call.all
    unfinished.offset_r = unfinished.offset_r + 1
    return hidden_r1d[:, 0]
