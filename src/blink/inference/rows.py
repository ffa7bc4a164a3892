"""Text behind a trunk: many prompts under many runs, layer by layer, each piece of work done once (Algorithm 1).

A row is one prompt with one history of extensions. Runs whose policies have left the same extension alive at every
layer so far share a row; before a scanned layer a row splits into as many as its runs decide differently
(`branching.py`). Keys and values of trunk and extensions are never copied per row: each query attends to those that
all rows share, those of its row's extension and those of its own text. Text is padded behind, where causal attention
does not see it.

Legend: R rows, b rows with the same extension, T columns of text, M columns of a row's own keys, N keys of a block
that all rows share, A query heads, K key heads, G = A / K, E width of one head, d hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from blink.inference.algorithm import Run
from blink.inference.cache import KeysValues
from blink.inference.policy import Event
from blink.inference.trunk import Extension, ExtensionCache, Trunk
from blink.model.backbone import Backbone, Heads, rotate

Tensors = TypeVar("Tensors", KeysValues, Heads)


class Member(NamedTuple):
    """A run that shares a row: its number, and its events so far."""

    run: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Indexed(Generic[Tensors]):
    """Tensors of rows as they were before they split, and for each present row the index of the one it comes from.

    So splitting rows copies indices, and tensors only once they are read.
    """

    tensors: Tensors
    index: list[int]

    @classmethod
    def of(cls, tensors: Tensors) -> "Indexed[Tensors]":
        """Tensors of the present rows."""
        return cls(tensors, list(range(len(tensors[0]))))

    def select(self, rows: list[int]) -> "Indexed[Tensors]":
        """Some rows, in the order given."""
        return replace(self, index=[self.index[row] for row in rows])

    def gather(self) -> Tensors:
        """The tensors of the present rows, [R, ...]; not a copy where none is needed."""
        if self.index == list(range(len(self.tensors[0]))):
            return self.tensors
        return type(self.tensors)(*(tensor[self.index] for tensor in self.tensors))


class LayerKeys(NamedTuple):
    """What the tokens of each row attend to in one layer, besides the trunk: their own text's, and an extension's."""

    own: Indexed[KeysValues]
    extensions: list[Extension | None]

    def select(self, rows: list[int]) -> "LayerKeys":
        """Some rows, in the order given; no tensor is copied."""
        return LayerKeys(self.own.select(rows), [self.extensions[row] for row in rows])


@dataclass(frozen=True)
class Rows:
    """Rows that go through the layers together. Immutable: each step makes a new one.

    Attributes:
        layer: the next layer.
        prompts: the number of each row's prompt.
        lengths: tokens of its text.
        members: the runs that share each row.
        extensions: the living extension of each row, or None.
        hidden_RTd: what enters the layer, padded behind.
        cache: keys and values of the layers so far.
        projected: the layer's projections, once its runs have decided; None before. They do not
            depend on extensions, so rows that split share them.
    """

    layer: int
    prompts: list[int]
    lengths: list[int]
    members: list[tuple[Member, ...]]
    extensions: list[Extension | None]
    hidden_RTd: Tensor
    cache: tuple[LayerKeys, ...] = ()
    projected: Indexed[Heads] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def offsets(self) -> Tensor:
        """Positions of the text, counted from the end of trunk and extension: int64 [1, T]."""
        return torch.arange(self.hidden_RTd.shape[1], device=self.hidden_RTd.device)[None]

    def valid(self) -> Tensor:
        """Bool [R, T], False at padding."""
        return self.offsets() < torch.tensor(self.lengths, device=self.hidden_RTd.device)[:, None]

    def last(self, of_RT: Tensor) -> Tensor:
        """What stands at the last token of each row: [R, ...] of [R, T, ...]."""
        last_R = torch.tensor(self.lengths, device=of_RT.device) - 1
        return of_RT[torch.arange(len(self), device=of_RT.device), last_R]

    def select(self, rows: list[int]) -> "Rows":
        """Some rows, in the order given; may name one several times."""
        if rows == list(range(len(self))):
            return self
        return replace(
            self,
            prompts=[self.prompts[row] for row in rows],
            lengths=[self.lengths[row] for row in rows],
            members=[self.members[row] for row in rows],
            extensions=[self.extensions[row] for row in rows],
            hidden_RTd=self.hidden_RTd[rows],
            cache=tuple(layer.select(rows) for layer in self.cache),
            projected=None if self.projected is None else self.projected.select(rows),
        )

    def chunks(self, size: int) -> list["Rows"]:
        """The rows in pieces of at most `size`."""
        rows = list(range(len(self)))
        return [self.select(rows[first : first + size]) for first in range(0, len(self), size)]


class Shared(NamedTuple):
    """All that the rows behind one trunk share.

    Attributes:
        rotary: cosine and sine of every position that may come, each [positions, E].
        runs: by number; resolved, their modules placed on their layers.
        sample_keys: the prompts' names by number, for policies that draw.
    """

    backbone: Backbone
    trunk: Trunk
    extension_cache: ExtensionCache
    rotary: tuple[Tensor, Tensor]
    runs: Sequence[Run]
    sample_keys: Sequence[str]

    def rotary_at(self, extensions: Sequence[Extension | None], offsets_RT: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary embedding of tokens that stand `offsets_RT` behind the trunk and a row's extension: [R, T, E]."""
        lengths = [0 if extension is None else extension.columns for extension in extensions]
        behind_R1 = torch.tensor(lengths, device=offsets_RT.device)[:, None]
        position_RT = offsets_RT + self.trunk.columns + behind_R1
        return self.rotary[0][position_RT], self.rotary[1][position_RT]


def start(
    backbone: Backbone, prompts: Sequence[int], texts: Sequence[Sequence[int]], runs: Sequence[int]
) -> Rows:
    """One row per prompt, that all runs share.

    Args:
        texts: ids behind the picture, per prompt, at least one each.
    """
    lengths = [len(text) for text in texts]
    ids = [
        [*text, *[0] * (max(lengths) - len(text))] for text in texts
    ]  # padding is never attended to: any id
    hidden_RTd = backbone.embed(torch.tensor(ids, device=backbone.device))
    members = [tuple(Member(run) for run in runs) for _ in prompts]
    return Rows(0, list(prompts), lengths, members, [None] * len(lengths), hidden_RTd)


def run_layer(shared: Shared, rows: Rows) -> Rows:
    """Run one layer of rows whose runs have decided (`branching.branch`)."""
    layer, backbone = rows.layer, shared.backbone
    assert rows.projected is not None, f"runs decide at layer {layer} before it runs"
    heads, offsets_1T = rows.projected.gather(), rows.offsets()
    shared.extension_cache.advance(layer, rows.extensions)
    rotary = shared.rotary_at(rows.extensions, offsets_1T)
    own = KeysValues(rotate(heads.keys_BKNE, rotary), heads.values_BKNE)
    T = offsets_1T.shape[1]
    causal_1TT = torch.ones(1, T, T, dtype=torch.bool, device=offsets_1T.device).tril()
    query_RATE = rotate(heads.query_BANE, rotary)
    mixed_RATE = attend(shared, layer, rows.extensions, query_RATE, own, causal_1TT)
    return replace(
        rows,
        layer=layer + 1,
        hidden_RTd=backbone.complete(layer, rows.hidden_RTd, mixed_RATE),
        cache=(*rows.cache, LayerKeys(Indexed.of(own), rows.extensions)),
        projected=None,
    )


def attend(
    shared: Shared,
    layer: int,
    extensions: Sequence[Extension | None],
    query_RATE: Tensor,
    own: KeysValues,
    visible_RTM: Tensor,
) -> Tensor:
    """Attention over the keys of trunk, extension and own text: [R, A, T, E].

    Args:
        query_RATE: rotated.
        own: of each row, [R, K, M, E].
        visible_RTM: bool, which of its own keys a token sees; [1, T, M] if rows do not differ.
    """
    mixed_RATE = torch.empty_like(query_RATE)
    trunk, scaling = shared.trunk.keys_values(layer), shared.backbone.scaling(layer)
    for extension, rows in group_by_extension(extensions).items():
        blocks = [trunk] if extension is None else [trunk, extension.keys_values(layer)]
        whole = len(rows) == len(extensions)
        of_rows = KeysValues(*(tensor if whole else tensor[rows] for tensor in own))
        visible_bTM = visible_RTM if whole or len(visible_RTM) == 1 else visible_RTM[rows]
        query_bATE = query_RATE if whole else query_RATE[rows]
        mixed_RATE[rows] = attend_blocks(query_bATE, blocks, of_rows, visible_bTM, scaling)
    return mixed_RATE


def attend_blocks(
    query_bATE: Tensor,
    blocks: Sequence[KeysValues],
    own: KeysValues,
    visible_bTM: Tensor,
    scaling: float,
) -> Tensor:
    """Attention over keys that all rows share and keys of each row's own, none of them copied: [b, A, T, E].

    The numbers are those of one softmax, in float32, over all of a row's keys side by side.

    Args:
        query_bATE: rotated; A is a multiple of K.
        blocks: keys and values [K, N, E] that every token of every row sees.
        own: keys and values of each row, [b, K, M, E].
        visible_bTM: bool, which of its row's own keys a token sees, at least one; [1, T, M] if rows do not differ.
        scaling: what attention multiplies its scores by.
    """
    b, A, T, E = query_bATE.shape
    K, M = own.keys.shape[1:3]
    G = A // K
    # Against a shared block the queries of all rows are one matrix per key head; against own keys, one per row, too.
    query_bKQE = query_bATE.reshape(b, K, G * T, E)
    query_KZE = query_bKQE.transpose(0, 1).reshape(K, b * G * T, E)
    scores = [(query_KZE @ block.keys.transpose(1, 2)).view(K, b, G, T, -1) for block in blocks]
    own_bKGTM = (query_bKQE @ own.keys.transpose(2, 3)).view(b, K, G, T, M)
    own_bKGTM = own_bKGTM.masked_fill(~visible_bTM[:, None, None], float("-inf"))
    scores_KbGTN = torch.cat((*scores, own_bKGTM.transpose(0, 1)), dim=-1)
    weights_KbGTN = (scores_KbGTN.float() * scaling).softmax(dim=-1).to(query_bATE.dtype)
    *weights, own_KbGTM = weights_KbGTN.split([*(block.keys.shape[1] for block in blocks), M], dim=-1)
    own_bKQM = own_KbGTM.transpose(0, 1).reshape(b, K, G * T, M)
    mixed_bATE = (own_bKQM @ own.values).view(b, A, T, E)
    for block, weights_KbGTn in zip(blocks, weights, strict=True):
        mixed_KZE = weights_KbGTn.reshape(K, b * G * T, -1) @ block.values
        mixed_bATE = mixed_bATE + mixed_KZE.view(K, b, G * T, E).transpose(0, 1).reshape(b, A, T, E)
    return mixed_bATE


def group_by_extension(extensions: Sequence[Extension | None]) -> dict[Extension | None, list[int]]:
    """Rows by their living extension."""
    groups: dict[Extension | None, list[int]] = {}
    for row, extension in enumerate(extensions):
        groups.setdefault(extension, []).append(row)
    return groups
