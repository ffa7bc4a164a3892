"""Which token follows, and where an answer ends: greedy decoding without the model's own `generate`.

Legend: r rows, V the vocabulary.
"""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.generation import GenerationConfig, LogitsProcessor

from blink.model.backbone import Backbone
from blink.runs.values import NotFiniteError, UserError

NOT_FINITE = -1
"""Stands for the id of a token that cannot be chosen."""


def next_ids(backbone: Backbone, hidden_rd: Tensor) -> list[int]:
    """The id of the largest logit of each row, `NOT_FINITE` where that is nan or infinite.

    Args:
        hidden_rd: what leaves the last layer at the last token of each row, [r, d].
    """
    ids: list[int] = largest(backbone.logits(backbone.final_norm(hidden_rd))).tolist()
    return ids


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
