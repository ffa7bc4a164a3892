"""Text behind trunks: many prompts under many runs, layer by layer, each piece of work done once (Algorithm 1).

A row is one prompt with one history of extensions. Runs whose policies have left the same extension alive at every
layer so far share a row; before a scanned layer a row splits into as many as its runs decide differently
(`branching.py`). Rows of many pictures run through a layer in one call, each attending to its own picture's trunk
(`sharing/groups.py`). Text is padded behind, where causal attention does not see it.

Legend: R rows, T columns of text, A query heads, K key heads, E width of one head, d hidden width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.inference.attention import LeaveLayer
from blink.inference.boxes import SeenBox
from blink.inference.cache import KeysValues, OneCall
from blink.inference.engine.sharing.extensions import Extension, ExtensionCache
from blink.inference.engine.sharing.groups import Groups, added
from blink.inference.engine.sharing.partial import ALIGNED, Partial, attend, merge
from blink.inference.engine.sharing.trunk import Entry, Trunk, as_index
from blink.inference.policy import Event
from blink.inference.run import Run
from blink.inference.saliency import without_autocast
from blink.model.backbone import Backbone, Frame


class Question(NamedTuple):
    """One prompt, as the rows that answer it know it.

    Attributes:
        ask, number: of the ask, and of the prompt in it.
        trunk: of its prefix and picture.
        trunk_number: among those whose rows run together.
        text: ids behind the picture, at least one.
        key: names it, for policies that draw.
        box: of what it is about, for policies that select by it.
    """

    ask: int
    number: int
    trunk: Trunk
    trunk_number: int
    text: Sequence[int]
    key: str
    box: SeenBox | None


class Member(NamedTuple):
    """A run that shares a row: its number in its ask, itself, and its events so far."""

    number: int
    run: Run
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class LayerKeys:
    """What the tokens of each row attend to in one layer, besides the trunk: their own text's, and an extension's.

    Rows split after they ran a layer, so keys are those of the rows as they were there; splitting copies indices, and
    tensors only once they are read.

    Attributes:
        own: keys and values of text, [r, K, T, E], of the rows as they were.
        index: for each present row the index of the one it comes from.
        extensions: the extension of each present row in this layer, or None.
    """

    own: KeysValues
    index: list[int]
    extensions: list[Extension | None]

    def select(self, rows: list[int]) -> "LayerKeys":
        """Some rows, in the order given; no tensor is copied."""
        index, extensions = [self.index[row] for row in rows], [self.extensions[row] for row in rows]
        return LayerKeys(self.own, index, extensions)

    def entry(self, row: int) -> Entry:
        """Own keys and values of a present row."""
        return Entry(self.own, self.index[row])


@dataclass(frozen=True)
class Rows:
    """Rows that go through the layers together. Immutable: each step makes a new one.

    Attributes:
        layer: the next layer.
        questions: each row's prompt.
        members: the runs that share each row.
        extensions: the living extension of each row, or None.
        hidden_RTd: what enters the layer, padded behind.
        cache: keys and values of the layers so far.
        decided: whether the runs have decided what happens before this layer.
        layout: how they attended in the layer before, if they are the same rows with the same extensions.
    """

    layer: int
    questions: list[Question]
    members: list[tuple[Member, ...]]
    extensions: list[Extension | None]
    hidden_RTd: Tensor
    cache: tuple[LayerKeys, ...] = ()
    decided: bool = False
    layout: "Layout | None" = None

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row's text."""
        return [len(question.text) for question in self.questions]

    def last_token(self) -> Tensor:
        """Number of each row's last token, int64 [R]."""
        return torch.tensor(self.lengths, device=self.hidden_RTd.device) - 1

    def last(self, of_RT: Tensor) -> Tensor:
        """What stands at the last token of each row: [R, ...] of [R, T, ...]."""
        return of_RT[torch.arange(len(self), device=of_RT.device), self.last_token()]

    def select(self, rows: list[int]) -> "Rows":
        """Some rows, in the order given; may name one several times."""
        if rows == list(range(len(self))):
            return self
        return replace(
            self,
            questions=[self.questions[row] for row in rows],
            members=[self.members[row] for row in rows],
            extensions=[self.extensions[row] for row in rows],
            hidden_RTd=self.hidden_RTd[as_index(rows)],
            cache=tuple(layer.select(rows) for layer in self.cache),
            layout=None,
        )

    def to(self, device: torch.device) -> "Rows":
        """The rows on a device; the layers that they have been through keep their keys."""
        if device == self.hidden_RTd.device:
            return self
        return replace(self, hidden_RTd=self.hidden_RTd.to(device), layout=None)

    def chunks(self, size: int) -> list["Rows"]:
        """The rows in pieces of at most `size`."""
        rows = list(range(len(self)))
        return [self.select(rows[first : first + size]) for first in range(0, len(self), size)]


class Layout(NamedTuple):
    """How rows attend: to whose trunks and extensions, and with which rotary embeddings.

    Attributes:
        extensions: None: no row has any.
    """

    trunks: Groups
    extensions: Groups | None
    frame: Frame

    def attend(self, layer: int, query_RTAE: Tensor, own: KeysValues, scaling: float) -> Tensor:
        """Attention of every token of text, to what its row shares and to its own text: [R, T, A, E], in the values' dtype.

        Args:
            own: keys and values of the rows' text, [R, K, T, E].
        """
        of_own = attend(query_RTAE, *own, scaling, causal=True)
        return merge([of_own, *self.attend_shared(layer, query_RTAE, scaling)]).to(own.values.dtype)

    def attend_shared(self, layer: int, query_RTAE: Tensor, scaling: float) -> list[Partial]:
        """Attention of some tokens of each row to what the row shares."""
        return [
            groups.attend(query_RTAE, groups.shared.layer(layer), scaling)
            for groups in (self.trunks, self.extensions)
            if groups is not None
        ]

    def attention_row(
        self, layer: int, query_RAE: Tensor, own_keys_RKTE: Tensor, token_R: Tensor, scaling: float
    ) -> Tensor:
        """Attention of one token of each row, averaged over heads: float32 [R, P], over its trunk alone.

        Args:
            token_R: number of the token.
        """
        token_column = torch.arange(own_keys_RKTE.shape[2], device=query_RAE.device)
        K = own_keys_RKTE.shape[1]
        with without_autocast(query_RAE):
            query_RKGE = (query_RAE.float() * scaling).unflatten(1, (K, -1))
            own_RAT = (query_RKGE @ own_keys_RKTE.float().transpose(2, 3)).flatten(1, 2)
        own_RAT = own_RAT.masked_fill((token_column > token_R[:, None])[:, None], -math.inf)
        scores = [
            groups.scores(query_RAE, groups.shared.layer(layer).keys, scaling)
            for groups in (self.trunks, self.extensions)
            if groups is not None
        ]
        weights_RAN = torch.cat((*scores, own_RAT), dim=-1).softmax(dim=-1)
        return weights_RAN[..., : scores[0].shape[-1]].mean(dim=1)


class Rotary:
    """Cosine and sine of positions, from 0 to as far as somebody needed."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._lock = Lock()
        self._columns = 0
        self._parts: tuple[Tensor, ...] = ()

    def reach(self, positions: int) -> None:
        """Make sure that there are so many; ValueError where the backbone has no such positions."""
        with self._lock:  # of two threads the one that needs fewer might come last
            if positions > self._columns:
                backbone = self._backbone
                every_C1N = torch.arange(positions, device=backbone.device).expand(
                    backbone.family.axes, 1, -1
                )
                self._parts = tuple(part.squeeze(-3) for part in backbone.rotary(every_C1N))
                self._columns = positions

    def frame(self, position_RT: Tensor) -> Frame:
        """Rotary embeddings of tokens at some positions, on the device of these; no mask."""
        position_RT = position_RT.to(self._parts[0].device)
        # The position is the second axis from the right also where there is one for M-RoPE's axes.
        cos, sin = (part[..., position_RT, :] for part in self._parts)
        return Frame(None, (cos, sin))


class Shared(NamedTuple):
    """All that rows which run together share.

    Attributes:
        rotary: reaches as far as any of them may come.
    """

    backbone: Backbone
    extension_cache: ExtensionCache
    rotary: Rotary


def next_positions(questions: Sequence[Question], extensions: Sequence[Extension | None]) -> list[int]:
    """Position of the first token of text of each row, behind trunk and extension."""
    return [
        question.trunk.next_position
        + (0 if extension is None else extension.placement.shift(len(question.trunk.cell_CV)))
        for question, extension in zip(questions, extensions, strict=True)
    ]


def start(backbone: Backbone, questions: Sequence[Question], runs: Sequence[Sequence[Run]]) -> Rows:
    """One row per prompt, that all runs share.

    Args:
        runs: of each prompt's ask; resolved, their modules placed on their layers.
    """
    T = max(len(question.text) for question in questions)
    # Padding is never attended to: any id.
    ids = [[*question.text, *[0] * (T - len(question.text))] for question in questions]
    hidden_RTd = backbone.embed(torch.tensor(ids, device=backbone.device))
    members = [tuple(Member(number, run) for number, run in enumerate(of_row)) for of_row in runs]
    return Rows(0, list(questions), members, [None] * len(questions), hidden_RTd)


def run_layer(shared: Shared, rows: Rows, before: Callable[..., None] | None = None) -> Rows:
    """Run one layer; of the last one comes only what leaves it at the last token of each row, [R, 1, d].

    Args:
        before: is shown layout, query and keys of the text, and scaling of the layer before it attends, and may leave it
            (`LeaveLayer`).
    """
    layer, call = rows.layer, OneCall()
    shared.extension_cache.advance(layer, rows.extensions)
    layout = rows.layout or _layout(shared, rows)
    # Of the other tokens the last layer's keys and values are needed, and no output.
    left = False
    leaves = layer == shared.backbone.num_layers - 1 and rows.hidden_RTd.shape[1] > 1

    def hook(
        query_RATE: Tensor, keys: Tensor, values: Tensor, scaling: float, stock: Any, /
    ) -> tuple[Tensor, None]:
        nonlocal left
        if before is not None:
            before(layout, query_RATE, keys, scaling)
        if leaves:
            left = True
            raise LeaveLayer
        return layout.attend(layer, query_RATE.transpose(1, 2), KeysValues(keys, values), scaling), None

    try:
        hidden_RTd = shared.backbone.run_layer(layer, rows.hidden_RTd, layout.frame, call, hook)
    except LeaveLayer:
        if not left:
            raise
        hidden_RTd = _run_last_tokens(shared, rows, layout, call.new)
    own = LayerKeys(call.new, list(range(len(rows))), rows.extensions)
    return replace(
        rows, layer=layer + 1, hidden_RTd=hidden_RTd, cache=(*rows.cache, own), decided=False, layout=layout
    )


def _run_last_tokens(shared: Shared, rows: Rows, layout: Layout, own: KeysValues) -> Tensor:
    """Run a layer on the last token of each row: [R, 1, d].

    Args:
        own: keys and values of all tokens of text there, [R, K, T, E].
    """
    T, token_R = rows.hidden_RTd.shape[1], rows.last_token()
    N = math.ceil(T / ALIGNED) * ALIGNED
    own = KeysValues(*(F.pad(part, (0, 0, 0, N - T)) for part in own))
    visible_RN = torch.arange(N, device=token_R.device) <= token_R[:, None]
    mask_R11N = added(visible_RN, rows.hidden_RTd.dtype)[:, None, None]

    def hook(
        query_RA1E: Tensor, keys: Tensor, values: Tensor, scaling: float, stock: Any, /
    ) -> tuple[Tensor, None]:
        query_R1AE = query_RA1E.transpose(1, 2)
        of_own = attend(query_R1AE, *own, scaling, mask_b11N=mask_R11N)
        of_shared = layout.attend_shared(rows.layer, query_R1AE, scaling)
        return merge([of_own, *of_shared]).to(values.dtype), None

    position_R1 = (_first_positions(rows) + token_R)[:, None]
    frame = shared.rotary.frame(position_R1).to(token_R.device)
    last_R1d = rows.last(rows.hidden_RTd)[:, None]
    return shared.backbone.run_layer(rows.layer, last_R1d, frame, OneCall(), hook)


def _first_positions(rows: Rows) -> Tensor:
    """Position of the first token of text of each row: int64 [R]."""
    return torch.tensor(next_positions(rows.questions, rows.extensions), device=rows.hidden_RTd.device)


def _layout(shared: Shared, rows: Rows) -> Layout:
    """What rows as they are attend to."""
    T, device = rows.hidden_RTd.shape[1], rows.hidden_RTd.device
    first_R = _first_positions(rows)
    # Padding stands where the last token does: positions beyond it may not exist.
    position_RT = first_R[:, None] + torch.arange(T, device=device).minimum(rows.last_token()[:, None])
    trunks = Groups.of([question.trunk for question in rows.questions], T, device)
    assert trunks is not None, "each row stands behind a trunk"
    frame = shared.rotary.frame(position_RT).to(device)
    return Layout(trunks, Groups.of(rows.extensions, T, device), frame)
