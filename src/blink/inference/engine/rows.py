"""Text behind a trunk: many prompts under many runs, layer by layer, each piece of work done once (Algorithm 1).

A row is one prompt with one history of extensions. Runs whose policies have left the same extension alive at every
layer so far share a row; before a scanned layer a row splits into as many as its runs decide differently
(`branching.py`). Keys and values of trunk and extensions are never copied per row: each query attends to those that
all rows share, those of its row's extension and those of its own text. Text is padded behind, where causal attention
does not see it.

Legend: R rows, b rows with the same extension, T columns of text, M columns of a row's own keys, N keys of a block
that all rows share, A query heads, K key heads, G = A / K, E width of one head, d hidden width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.inference.cache import KeysValues, OneCall
from blink.inference.crops import Samples
from blink.inference.engine.trunk import Extension, ExtensionCache, Trunk
from blink.inference.policy import Event
from blink.inference.run import Run
from blink.inference.saliency import without_autocast
from blink.model.backbone import Backbone, Frame


class Member(NamedTuple):
    """A run that shares a row: its number, and its events so far."""

    run: int
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

    def gather(self) -> KeysValues:
        """Own keys and values of the present rows, [R, K, T, E]; not a copy where none is needed."""
        if self.index == list(range(len(self.own.keys))):
            return self.own
        return KeysValues(*(tensor[self.index] for tensor in self.own))


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
        decided: whether the runs have decided what happens before this layer.
    """

    layer: int
    prompts: list[int]
    lengths: list[int]
    members: list[tuple[Member, ...]]
    extensions: list[Extension | None]
    hidden_RTd: Tensor
    cache: tuple[LayerKeys, ...] = ()
    decided: bool = False

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
        )

    def chunks(self, size: int) -> list["Rows"]:
        """The rows in pieces of at most `size`."""
        rows = list(range(len(self)))
        return [self.select(rows[first : first + size]) for first in range(0, len(self), size)]


class Shared(NamedTuple):
    """All that the rows behind one trunk share.

    Attributes:
        rotary: cosine and sine of every position that may come behind the trunk, each [positions, E].
        runs: by number; resolved, their modules placed on their layers.
        samples: what the prompts are known by beside their tokens, by number.
    """

    backbone: Backbone
    trunk: Trunk
    extension_cache: ExtensionCache
    rotary: tuple[Tensor, Tensor]
    runs: Sequence[Run]
    samples: Samples

    def frame_at(self, extensions: Sequence[Extension | None], offsets_RT: Tensor) -> Frame:
        """Rotary embeddings of tokens that stand `offsets_RT` behind the trunk and a row's extension; no mask (see `Blocks`)."""
        axes = len(self.trunk.cell_CV)
        shifts = [0 if extension is None else extension.placement.shift(axes) for extension in extensions]
        position_RT = (
            offsets_RT + self.trunk.next_position + torch.tensor(shifts, device=offsets_RT.device)[:, None]
        )
        # The position is the second axis from the right also where a rotary embedding has one for M-RoPE's axes.
        cos, sin = (part[..., position_RT, :] for part in self.rotary)
        return Frame(None, (cos, sin))


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


class Blocks:
    """Hook of a layer's attention: new tokens of some rows attend to trunk, extension and their row's own keys.

    Args:
        extensions: the living extension of each row, or None.
        visible_RTM: bool, which of its own keys a token sees; [1, T, M] if rows do not differ.
    """

    def __init__(
        self, shared: Shared, layer: int, extensions: Sequence[Extension | None], visible_RTM: Tensor
    ) -> None:
        self._trunk = shared.trunk.keys_values(layer)
        self._layer = layer
        self._extensions = extensions
        self._visible_RTM = visible_RTM

    def __call__(
        self, query_RATE: Tensor, keys_RKME: Tensor, values_RKME: Tensor, scaling: float, stock: Any, /
    ) -> tuple[Tensor, None]:
        """Attend: [R, T, A, E]."""
        # Under autocast a rotary embedding leaves q and k in float32, beside values in half precision.
        mixed_RATE = torch.empty_like(query_RATE, dtype=values_RKME.dtype)
        for extension, rows in group_by_extension(self._extensions).items():
            blocks = [self._trunk] if extension is None else [self._trunk, extension.keys_values(self._layer)]
            whole = len(rows) == len(self._extensions)
            own = KeysValues(*(part if whole else part[rows] for part in (keys_RKME, values_RKME)))
            visible_bTM = self._visible_RTM
            if not whole and len(visible_bTM) > 1:
                visible_bTM = visible_bTM[rows]
            query_bATE = query_RATE if whole else query_RATE[rows]
            with without_autocast(query_RATE):
                mixed_RATE[rows] = attend_blocks(query_bATE, blocks, own, visible_bTM, scaling)
        return mixed_RATE.transpose(1, 2), None


def run_layer(shared: Shared, rows: Rows, before: Callable[..., None] | None = None) -> Rows:
    """Run one layer.

    Args:
        before: is shown query, keys and scaling of the layer before it attends, and may leave it (`LeaveLayer`).
    """
    layer, call, offsets_1T = rows.layer, OneCall(), rows.offsets()
    shared.extension_cache.advance(layer, rows.extensions)
    T = offsets_1T.shape[1]
    causal_1TT = torch.ones(1, T, T, dtype=torch.bool, device=offsets_1T.device).tril()
    blocks = Blocks(shared, layer, rows.extensions, causal_1TT)

    def hook(
        query: Tensor, keys: Tensor, values: Tensor, scaling: float, stock: Any, /
    ) -> tuple[Tensor, None]:
        if before is not None:
            before(query, keys, scaling)
        return blocks(query, keys, values, scaling, stock)

    frame = shared.frame_at(rows.extensions, offsets_1T)
    hidden_RTd = shared.backbone.run_layer(layer, rows.hidden_RTd, frame, call, hook)
    own = LayerKeys(call.new, list(range(len(rows))), rows.extensions)
    return replace(rows, layer=layer + 1, hidden_RTd=hidden_RTd, cache=(*rows.cache, own), decided=False)


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
    query_bKQE = query_bKQE.float() * scaling  # scores of some models are too large for half precision
    query_KZE = query_bKQE.transpose(0, 1).reshape(K, b * G * T, E)
    scores = [(query_KZE @ block.keys.float().transpose(1, 2)).view(K, b, G, T, -1) for block in blocks]
    own_bKGTM = (query_bKQE @ own.keys.float().transpose(2, 3)).view(b, K, G, T, M)
    own_bKGTM = own_bKGTM.masked_fill(~visible_bTM[:, None, None], float("-inf"))
    scores_KbGTN = torch.cat((*scores, own_bKGTM.transpose(0, 1)), dim=-1)
    weights_KbGTN = scores_KbGTN.softmax(dim=-1).to(own.values.dtype)
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
