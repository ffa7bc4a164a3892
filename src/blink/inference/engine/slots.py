"""KV cache of rows that decode: a slot per row for its own tokens; what it shares with others is not copied into it.

A slot is one entry of a batch of keys and values per layer, whose columns are written as its row goes on. So a step copies
no cache, and rows of different pictures and lengths are one call of attention. What a row leaves, another may enter.

Legend: S slots, M columns of own keys, T columns of text, K key heads, E width of one head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from blink.inference.cache import KeysValues
from blink.inference.engine.rows import Member, Question, Rows
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
        text: keys and values of its `own` tokens by layer; None while a slot holds them.
    """

    question: Question
    members: tuple[Member, ...]
    history: tuple[Extension | None, ...]
    ids: list[int]
    own: int
    text: Sequence[Entry] | None

    @classmethod
    def of(cls, rows: Rows, row: int, first: int) -> "Decoding":
        """A row behind the last layer; `first` is the first token of its answer."""
        question, history = rows.questions[row], tuple(layer.extensions[row] for layer in rows.cache)
        text = [layer.entry(row) for layer in rows.cache]
        return cls(question, rows.members[row], history, [first], len(question.text), text)


class Slots:
    """Own keys and values of rows, per layer [S, K, M, E].

    Attributes:
        S, M: as in the legend.
        layers: keys and values; there is more room than that in some of them where memory ran out.
    """

    def __init__(self) -> None:
        self.S, self.M = 0, 0
        self.layers: list[KeysValues] = []

    def reach(self, S: int, M: int, text: Sequence[Entry] = ()) -> None:
        """Make room for `S` slots and `M` columns, layer by layer.

        Args:
            text: what the very first row enters with.

        Raises:
            torch.OutOfMemoryError: slots hold what they held.
        """
        S, M = max(S, self.S), max(-(-M // ALIGNED) * ALIGNED, self.M)
        self.layers = self.layers or [_empty(entry.of) for entry in text]
        for layer, of_layer in enumerate(self.layers):
            self.layers[layer] = KeysValues(*(_grown(part, S, M) for part in of_layer))
        self.S, self.M = S, M

    def fill(self, taken: Sequence[int], rows: Sequence[Decoding]) -> None:
        """Copy keys and values of the text of rows into slots, for which there is room.

        Rows still have their text where memory runs out. What a row before left behind them is masked. It is finite, too: a
        row that is not ends its ask and all later ones, so that none enters its slot.
        """
        for layer, into in enumerate(self.layers):
            by_batch: dict[int, list[tuple[int, Entry]]] = {}
            for slot, row in zip(taken, rows, strict=True):
                assert row.text is not None, "a row enters once"
                entry = row.text[layer]
                by_batch.setdefault(id(entry.of), []).append((slot, entry))
            for entries in by_batch.values():
                slots = as_index([slot for slot, _ in entries])
                of_batch = as_index([entry.row for _, entry in entries])
                own = entries[0][1].of
                T = min(own.keys.shape[2], self.M)  # rows that ran beside a longer one are padded
                for part, of_own in zip(into, own, strict=True):
                    part[slots, :, :T] = of_own[of_batch, :, :T].to(part.device)
        for row in rows:
            row.text = None

    def select(self, kept: Sequence[int]) -> None:
        """Keep some slots; all of them where memory runs out."""
        self.layers = [KeysValues(*(part[list(kept)] for part in of_layer)) for of_layer in self.layers]
        self.S = len(kept)

    def clear(self) -> None:
        """Let all slots go."""
        self.layers = [_empty(of_layer) for of_layer in self.layers]
        self.S, self.M = 0, 0


def _empty(of_layer: KeysValues) -> KeysValues:
    """No slots, of the dtype, device and heads of some keys and values."""
    return KeysValues(*(part.new_empty(0, part.shape[1], 0, part.shape[3]) for part in of_layer))


def _grown(part_SKME: Tensor, S: int, M: int) -> Tensor:
    """Keys or values with room for at least so many slots and columns."""
    b, K, m, E = part_SKME.shape
    if b >= S and m >= M:
        return part_SKME
    # Zeros, as a number of no meaning may be nan, which a weight of 0 does not undo.
    grown = part_SKME.new_zeros(max(b, S), K, max(m, M), E)
    grown[:b, :, :m] = part_SKME
    return grown
