"""Greedy answers of rows that went through every layer, one token of each row at a time, ended rows left out.

Every token attends to what each layer holds: the trunk, the extension that lived there at the prompt, and the row's
own text and answer so far, at the position that follows in that layer.

Legend: R rows, r rows that go on, T columns of text, M columns of a row's own keys, K key heads, E width of one head,
d hidden width.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.generation import GenerationConfig

from blink.inference.cache import KeysValues
from blink.inference.rows import Rows, Scene, attend
from blink.inference.trunk import Extension
from blink.model.backbone import rotate


@dataclass
class _Going:
    """Rows that have not ended.

    Attributes:
        rows: their numbers.
        own: keys and values per layer, [r, K, M, E].
        alive: their extensions, per layer.
        valid_rM: bool, False at padding.
        offset_r: where the next token stands behind trunk and extension.
    """

    rows: list[int]
    own: list[KeysValues]
    alive: list[list[Extension | None]]
    valid_rM: Tensor
    offset_r: Tensor

    def keep(self, places: list[int]) -> None:
        """Leave out all rows but those at some places."""
        if places == list(range(len(self.rows))):
            return
        self.rows = [self.rows[place] for place in places]
        self.own = [KeysValues(*(part[places] for part in own)) for own in self.own]
        self.alive = [[alive[place] for place in places] for alive in self.alive]
        self.valid_rM, self.offset_r = self.valid_rM[places], self.offset_r[places]


def answer(scene: Scene, rows: Rows, *, closing: Collection[int], max_new_tokens: int) -> list[list[int]]:
    """The answer's ids of each row, up to a closing token or `max_new_tokens`; `rows` stay as they are."""
    device, T = rows.hidden_RTd.device, rows.hidden_RTd.shape[1]
    length_R = torch.tensor(rows.lengths, device=device)
    going = _Going(
        rows=list(range(len(rows))),
        own=[own.gather() for own in rows.past],
        alive=[own.alive for own in rows.past],
        valid_rM=torch.arange(T, device=device) < length_R[:, None],
        offset_r=length_R,
    )
    hidden_rd = rows.hidden_RTd[torch.arange(len(rows), device=device), length_R - 1]
    answers: list[list[int]] = [[] for _ in going.rows]
    while True:
        ids = _largest(scene, hidden_rd)
        for row, token in zip(going.rows, ids, strict=True):
            answers[row].append(token)
        on = [place for place, token in enumerate(ids) if token not in closing]
        if not on or len(answers[going.rows[on[0]]]) == max_new_tokens:
            return answers
        going.keep(on)
        hidden_rd = _step(scene, going, torch.tensor([ids[place] for place in on], device=device))


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
        raise ValueError(
            f"the model's generation_config asks for {names}; the engine takes the largest logit as it is: unset that, "
            "or use attach and generate (engine.reuse=none)"
        )
    return closing_ids(config)


def closing_ids(config: GenerationConfig) -> frozenset[int]:
    """Ids at which an answer ends; none if the config names none."""
    ids = config.eos_token_id
    return frozenset(() if ids is None else ids if isinstance(ids, Sequence) else (ids,))


def _largest(scene: Scene, hidden_rd: Tensor) -> list[int]:
    """The id of the largest logit of each row."""
    logits = scene.backbone.logits(scene.backbone.final_norm(hidden_rd))
    ids: list[int] = logits.float().argmax(dim=-1).tolist()
    return ids


def _step(scene: Scene, going: _Going, ids_r: Tensor) -> Tensor:
    """Run one token of each row through every layer: [r, d]."""
    backbone = scene.backbone
    hidden_r1d = backbone.embed(ids_r)[:, None]
    going.valid_rM = F.pad(going.valid_rM, (0, 1), value=True)
    for layer in range(backbone.num_layers):
        alive = going.alive[layer]
        heads = backbone.project(layer, hidden_r1d)
        rotary = scene.rotary_at(alive, going.offset_r[:, None])
        keys, values = going.own[layer]
        own = KeysValues(
            torch.cat((keys, rotate(heads.keys_BKNE, rotary)), dim=2),
            torch.cat((values, heads.values_BKNE), dim=2),
        )
        query_rA1E = rotate(heads.query_BANE, rotary)
        mixed_rA1E = attend(scene, layer, alive, query_rA1E, own, going.valid_rM[:, None])
        hidden_r1d = backbone.complete(layer, hidden_r1d, mixed_rA1E)
        going.own[layer] = own
    going.offset_r = going.offset_r + 1
    return hidden_r1d[:, 0]
