"""Text behind a trunk: many prompts under many policies, layer by layer, each piece of work done once (Alg. 1).

A row is one prompt with one history of extensions. Runs whose policies have left the same extension alive at every
layer so far share a row; before a scanned layer a row splits into as many as its runs disagree (`acting.py`). The keys
of trunk and extensions are never copied per row: each query meets those that all rows share, those of its row's
extension and those of its own text. Here text is padded behind, where causal attention does not see it.

Legend: R rows, b rows with the same extension, T columns of text, M columns of a row's own keys, N keys of one query,
P trunk, X extension, A query heads, K key heads, E width of one head, V tokens of the base grid, d hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from blink.inference.algorithm import Run
from blink.inference.cache import KeysValues
from blink.inference.mixing import mix
from blink.inference.policy import Event
from blink.inference.trunk import Extension, Extensions, Trunk
from blink.model.backbone import Backbone, Heads, rotate


class Member(NamedTuple):
    """A run that shares a row: its number, and its events so far."""

    run: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Own:
    """A row's own keys and values in one layer, and what lived there.

    Attributes:
        made: [r, K, T, E] of the rows as they were at that layer.
        source: for each row of now, which of those it comes from.
        alive: for each row of now, its extension at that layer.
    """

    made: KeysValues
    source: list[int]
    alive: list[Extension | None]

    def select(self, rows: list[int]) -> "Own":
        """Some rows, in the order given; no tensor is copied."""
        return replace(
            self, source=[self.source[row] for row in rows], alive=[self.alive[row] for row in rows]
        )

    def gather(self) -> KeysValues:
        """Keys and values of the rows of now, [R, K, T, E]; not a copy where none is needed."""
        if self.source == list(range(len(self.made.keys))):
            return self.made
        return KeysValues(*(part[self.source] for part in self.made))


@dataclass(frozen=True)
class Projected:
    """What a layer projected of rows before they split, which does not depend on what lives in them.

    Attributes:
        made: of the rows as they were.
        source: for each row of now, which of those it comes from.
    """

    made: Heads
    source: list[int]

    def select(self, rows: list[int]) -> "Projected":
        """Some rows, in the order given; no tensor is copied."""
        return replace(self, source=[self.source[row] for row in rows])

    def gather(self) -> Heads:
        """Projections of the rows of now."""
        if self.source == list(range(len(self.made.query_BANE))):
            return self.made
        return Heads(*(part[self.source] for part in self.made))


@dataclass(frozen=True)
class Rows:
    """Rows that go through the layers together; nothing in it changes, each step makes a new one.

    Attributes:
        layer: the next layer.
        prompts: which prompt each row is of.
        lengths: tokens of its text.
        members: the runs that share each row.
        alive: its extension, None without one.
        hidden_RTd: what enters the layer, padded behind.
        past: the layers so far.
        acted: what the layer projected, once its runs have decided; None before.
    """

    layer: int
    prompts: list[int]
    lengths: list[int]
    members: list[tuple[Member, ...]]
    alive: list[Extension | None]
    hidden_RTd: Tensor
    past: tuple[Own, ...] = ()
    acted: Projected | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: list[int]) -> "Rows":
        """Some rows, in the order given; may name one several times."""
        if rows == list(range(len(self))):
            return self
        return replace(
            self,
            prompts=[self.prompts[row] for row in rows],
            lengths=[self.lengths[row] for row in rows],
            members=[self.members[row] for row in rows],
            alive=[self.alive[row] for row in rows],
            hidden_RTd=self.hidden_RTd[rows],
            past=tuple(own.select(rows) for own in self.past),
            acted=None if self.acted is None else self.acted.select(rows),
        )

    def parts(self, most: int) -> list["Rows"]:
        """Pieces of at most so many rows."""
        numbers = list(range(len(self)))
        return [self.select(numbers[first : first + most]) for first in range(0, len(self), most)]


class Scene(NamedTuple):
    """All that the rows of one trunk share.

    Attributes:
        rotary: cosine and sine of every position that may come, each [positions, E].
        runs: by number, their modules placed on their layers.
        keys: the prompts' names, for policies that draw.
    """

    backbone: Backbone
    trunk: Trunk
    extensions: Extensions
    rotary: tuple[Tensor, Tensor]
    runs: Sequence[Run]
    keys: Sequence[str]

    def rotary_at(self, alive: Sequence[Extension | None], offsets_RT: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary embedding of tokens that stand `offsets_RT` behind the trunk and a row's extension: [R, T, E]."""
        shifts = [0 if extension is None else extension.columns for extension in alive]
        behind_R1 = torch.tensor(shifts, device=offsets_RT.device)[:, None]
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
    ids = [[*text, *[0] * (max(lengths) - len(text))] for text in texts]  # any id will do: nobody looks there
    hidden_RTd = backbone.embed(torch.tensor(ids, device=backbone.device))
    members = [tuple(Member(run) for run in runs) for _ in prompts]
    return Rows(0, list(prompts), lengths, members, [None] * len(lengths), hidden_RTd)


def run_layer(scene: Scene, rows: Rows) -> Rows:
    """Run one layer of rows that have acted."""
    layer, backbone = rows.layer, scene.backbone
    assert rows.acted is not None, f"rows act at layer {layer} before it runs"
    heads, offsets_RT = rows.acted.gather(), offsets(rows)
    scene.extensions.run(layer, rows.alive)
    rotary = scene.rotary_at(rows.alive, offsets_RT)
    own = KeysValues(rotate(heads.keys_BKNE, rotary), heads.values_BKNE)
    T = offsets_RT.shape[1]
    visible_1TT = torch.ones(1, T, T, dtype=torch.bool, device=offsets_RT.device).tril()
    mixed_RATE = attend(scene, layer, rows.alive, rotate(heads.query_BANE, rotary), own, visible_1TT)
    return replace(
        rows,
        layer=layer + 1,
        hidden_RTd=backbone.complete(layer, rows.hidden_RTd, mixed_RATE),
        past=(*rows.past, Own(own, list(range(len(rows))), rows.alive)),
        acted=None,
    )


def attend(
    scene: Scene,
    layer: int,
    alive: Sequence[Extension | None],
    query_RATE: Tensor,
    own: KeysValues,
    visible_RTM: Tensor,
) -> Tensor:
    """Attention over trunk, extension and own keys: [R, A, T, E]. Softmax in float32.

    Args:
        query_RATE: rotated.
        own: of each row, [R, K, M, E].
        visible_RTM: bool, which of its own keys a token sees; [1, T, M] if rows do not differ.
    """
    mixed_RATE = torch.empty_like(query_RATE)
    trunk, scaling = scene.trunk.at(layer), scene.backbone.scaling(layer)
    for extension, rows in by_extension(alive).items():
        shared = [trunk] if extension is None else [trunk, extension.at(layer)]
        whole = len(rows) == len(alive)
        of_rows = KeysValues(*(part if whole else part[rows] for part in own))
        visible_bTM = visible_RTM if whole or len(visible_RTM) == 1 else visible_RTM[rows]
        query_bATE = query_RATE if whole else query_RATE[rows]
        mixed_RATE[rows] = mix(query_bATE, shared, of_rows, visible_bTM, scaling)
    return mixed_RATE


def offsets(rows: Rows) -> Tensor:
    """Where the columns of text stand behind trunk and extension: [1, T]."""
    return torch.arange(rows.hidden_RTd.shape[1], device=rows.hidden_RTd.device)[None]


def by_extension(alive: Sequence[Extension | None]) -> dict[Extension | None, list[int]]:
    """Rows by the extension that lives in them."""
    groups: dict[Extension | None, list[int]] = {}
    for row, extension in enumerate(alive):
        groups.setdefault(extension, []).append(row)
    return groups
