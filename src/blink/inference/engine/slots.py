"""KV cache of rows that decode: a slot per row for its own tokens; what it shares with others is not copied into it.

A slot is one entry of a batch of keys and values per layer, whose columns are written as its row goes on. So a step copies
no cache, and rows of different pictures and lengths are one call of attention. What a row leaves, another may enter.

Legend: S slots, M columns of own keys, T columns of text, K key heads, E width of one head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from blink.inference.cache import KeysValues
from blink.inference.engine.rows import LayerKeys, Member, Question, Rows
from blink.inference.engine.sharing.extensions import Extension
from blink.inference.engine.sharing.partial import ALIGNED
from blink.inference.engine.sharing.trunk import Entry, as_index


@dataclass(eq=False)
class Decoding:
    """A row that decodes.

    Attributes:
        question, members: as in `Rows`.
        history: the extension that lived at each layer, or None.
        ids: of its answer so far.
        own: how many tokens of its own have keys: text and answer, without the newest.
        text: keys and values of its text by layer, and its number among their rows; None once a slot holds them.
    """

    question: Question
    members: tuple[Member, ...]
    history: tuple[Extension | None, ...]
    ids: list[int]
    own: int
    text: tuple[Sequence[LayerKeys], int] | None

    @classmethod
    def of(cls, rows: Rows, row: int, first: int) -> "Decoding":
        """A row behind the last layer; `first` is the first token of its answer."""
        question, history = rows.questions[row], tuple(layer.extensions[row] for layer in rows.cache)
        return cls(question, rows.members[row], history, [first], len(question.text), (rows.cache, row))


class Slots:
    """Own keys and values of rows, per layer [S, K, M, E].

    Attributes:
        S, M: as in the legend.
        layers: keys and values.
    """

    def __init__(self) -> None:
        self.S, self.M = 0, 0
        self.layers: list[KeysValues] = []

    def reach(self, S: int, M: int, text: Sequence[LayerKeys] = ()) -> None:
        """Make room for `S` slots and `M` columns.

        Args:
            text: what some row enters with, where no slot holds anything.
        """
        S, M = max(S, self.S), max(-(-M // ALIGNED) * ALIGNED, self.M)
        if (S, M) == (self.S, self.M):
            return
        before = self.layers or [KeysValues(*(part[:0] for part in layer.own)) for layer in text]
        self.layers = []
        for of_layer in before:
            parts = []
            for old in of_layer:
                # Zeros, as a number of no meaning may be nan, which a weight of 0 does not undo.
                new = old.new_zeros(S, old.shape[1], M, old.shape[3])
                new[: self.S, :, : self.M] = old[:, :, : self.M]
                parts.append(new)
            self.layers.append(KeysValues(*parts))
        self.S, self.M = S, M

    def fill(self, taken: Sequence[int], rows: Sequence[Decoding]) -> None:
        """Copy keys and values of the text of rows into slots, for which there is room.

        What a row before left behind them is masked. It is finite, too: a row that is not ends its ask and all later ones, so
        that none enters its slot.
        """
        for layer, into in enumerate(self.layers):
            by_batch: dict[int, list[tuple[int, Entry]]] = {}
            for slot, row in zip(taken, rows, strict=True):
                assert row.text is not None, "a row enters once"
                entry = row.text[0][layer].entry(row.text[1])
                by_batch.setdefault(id(entry.of), []).append((slot, entry))
            for entries in by_batch.values():
                slots = as_index([slot for slot, _ in entries])
                of_batch = as_index([entry.row for _, entry in entries])
                own = entries[0][1].of
                T = min(own.keys.shape[2], self.M)  # rows that ran beside a longer one are padded
                for part, of_own in zip(into, own, strict=True):
                    part[slots, :, :T] = of_own[of_batch, :, :T]
        for row in rows:
            row.text = None

    def select(self, kept: Sequence[int]) -> None:
        """Keep some slots."""
        self.layers = [KeysValues(*(part[list(kept)] for part in of_layer)) for of_layer in self.layers]
        self.S = len(kept)
