"""What is done next: prompts of further asks, or a token of each row that decodes.

Asks go in waves: as many pictures as there is room for have their prompts run together, and their rows then join those
that decode. Once enough pictures are answered the next wave follows, so that a long answer holds up no other.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise

import torch

from blink.inference.attention import hooks_enabled
from blink.inference.engine.asks import Answer, Ask, prepare
from blink.inference.engine.decoding import NOT_FINITE
from blink.inference.engine.lanes import lanes, side_by_side
from blink.inference.engine.pool import Pool, RowLimit
from blink.inference.engine.rows import Rotary
from blink.inference.engine.slots import Decoding
from blink.inference.engine.wave import CheckedAsk, Wave
from blink.model.backbone import Backbone
from blink.runs.values import NotFiniteError

_FIRST, _MOST = 8, 64
"""Pictures at once that are tried."""

Answers = list[list[Answer]]


class AskError(Exception):
    """An ask cannot be answered, by an `error` that knows nothing of other asks."""

    def __init__(self, ask: int, error: Exception) -> None:
        super().__init__(f"ask {ask}: {error}")
        self.ask, self.error = ask, error


class Pace:
    """How many pictures at once: doubled as long as that makes an answer cheaper, within memory.

    Args:
        max_bytes: of the keys and values of trunks and extensions.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._fits = 1  # until one picture's size is known
        self._size, self._settled = _FIRST, False
        self._best: float | None = None

    @property
    def pictures(self) -> int:
        """How many to have under way."""
        return min(self._size, self._fits)

    def seen(self, picture_bytes: int) -> None:
        """Learn the size of a picture."""
        self._fits = max(1, self._max_bytes // picture_bytes)

    def measured(self, seconds: float, answers: int, pictures: int) -> None:
        """Learn how long some answers took, which began with so many pictures at once."""
        if self._settled or answers == 0 or pictures < self.pictures or pictures != self._size:
            return
        cost = seconds / answers
        if self._best is not None and cost >= self._best:
            self._size, self._settled = self._size // 2, True
            return
        self._best = cost
        self._size = min(2 * self._size, _MOST)
        self._settled = self._size == _MOST

    def ran_out(self, pictures: int) -> int:
        """Halve the pictures at once, called where memory ran out with so many: to how many.

        With a single one that error goes on.
        """
        if pictures == 1:
            raise
        self._size, self._settled = pictures // 2, True
        return self._size


class Schedule:
    """Answers asks, in their order; iterate over it once.

    Args:
        asks: read as they are needed.
        check: makes a `CheckedAsk` of a number and an ask, or raises.
        text: of the ids of an answer.
        closing: ids at which an answer ends.
        max_bytes: of rows in flight and of the cache of those that decode, each.
        pictures: most at once; None: as `pace` says.
    """

    def __init__(
        self,
        backbone: Backbone,
        asks: Iterable[Ask],
        check: Callable[[int, Ask], CheckedAsk],
        text: Callable[[list[int]], str],
        *,
        closing: Collection[int],
        max_new_tokens: int,
        max_bytes: int,
        pictures: int | None,
        pace: Pace,
        limit: RowLimit,
    ) -> None:
        self._backbone, self._asks, self._check, self._text = backbone, iter(asks), check, text
        self._closing, self._max_new_tokens, self._max_bytes = closing, max_new_tokens, max_bytes
        self._pictures, self._pace, self._limit = pictures, pace, limit
        self._again: list[tuple[int, Ask]] = []
        self._rotary = Rotary(backbone)
        self._pool = Pool(
            backbone, self._rotary, max_bytes=max_bytes, max_new_tokens=max_new_tokens, limit=limit
        )
        self._waves: list[Wave] = []  # that were begun together, and run side by side
        self._waiting: list[Decoding] = []
        self._open: dict[int, dict[tuple[int, int], Answer]] = {}  # by ask: (run, prompt) -> answer
        self._sizes: dict[int, tuple[int, int]] = {}  # by ask: runs and prompts
        self._done: dict[int, Answers | Exception] = {}
        self._exhausted, self._read_so_far = False, 0
        self._started, self._since = time.perf_counter(), 0

    def __iter__(self) -> Iterator[Answers]:
        number = 0
        while True:
            # The caller goes on between two answers, so nothing of torch's state may be left changed there.
            with torch.inference_mode(), hooks_enabled(self._backbone):
                while number not in self._done and self._advance():
                    pass
            if number not in self._done:
                return
            answers = self._done.pop(number)
            if isinstance(answers, Exception):
                raise answers
            yield answers
            number += 1

    def _advance(self) -> bool:
        """Do the next piece of work; False: there is none."""
        if self._waiting:
            entered = self._pool.enter(self._waiting)
            del self._waiting[:entered]
            if entered:
                return True
        if self._waves and not self._waiting:
            most = sum(wave.max_rows for wave in self._waves)
            most = min(most, self._limit.rows or most)
            room = most - len(self._pool.rows)
            if room >= min(sum(wave.next_rows for wave in self._waves), max(1, most // 4)):
                self._run_prompts(room)
                return True
        if not self._waves and self._take():
            return True
        if self._pool.rows:
            self._decode()
            return True
        return False

    def _take(self) -> bool:
        """Begin a wave if there are asks left, and enough pictures are answered; False: it was not to be."""
        at_once = self._pictures or self._pace.pictures
        if self._exhausted and not self._again:
            return False
        if len(self._open) > at_once * 3 // 4 or (self._open and at_once == 1):
            return False
        if self._pictures is None and not self._open and self._since:
            self._pace.measured(time.perf_counter() - self._started, self._since, at_once)
            at_once = self._pace.pictures
        if not self._open:
            self._started, self._since = time.perf_counter(), 0
        taken = self._read(at_once - len(self._open))
        self._begin(taken)
        return bool(taken)

    def _read(self, count: int) -> list[tuple[int, Ask]]:
        """The next asks, at most so many, with their numbers."""
        taken, self._again = self._again[:count], self._again[count:]
        while len(taken) < count and not self._exhausted:
            try:
                taken.append((self._read_so_far, next(self._asks)))
                self._read_so_far += 1
            except StopIteration:
                self._exhausted = True
            except Exception as error:
                # It is the caller's, and raised as it is, once the asks before it are answered.
                self._done[self._read_so_far] = error
                self._exhausted = True
        return taken

    def _begin(self, asks: list[tuple[int, Ask]]) -> None:
        """Check some asks and make a wave of them; of fewer if memory runs out or one of them cannot be answered."""
        while asks:
            try:
                checked = [self._check(number, ask) for number, ask in asks]
                self._waves = self._made(checked)
                self._pace.seen(max(wave.picture_bytes for wave in self._waves))
                break
            except torch.OutOfMemoryError:
                at_once = self._pace.ran_out(len(self._open) + len(asks))
                self._pictures = self._pictures and at_once
            except Exception as error:
                # Asks before it are answered all the same, and then it is raised.
                if len(asks) == 1:
                    self._fail(asks[0][0], error)
                    return
            # Out here the error is gone, and with it what the failed wave held.
            half = len(asks) // 2
            self._again = asks[half:] + self._again
            asks = asks[:half]
        else:
            return
        for one in checked:
            self._open[one.number] = {}
            self._sizes[one.number] = (len(one.runs), len(one.splits))

    def _made(self, checked: Sequence[CheckedAsk]) -> list[Wave]:
        """A wave of some asks; on a CPU maybe several, of some of them each, that can run side by side."""
        inputs = prepare(self._backbone, [one.ask for one in checked], [one.splits for one in checked])
        # Regions go through the vision tower, which transformers may patch while it runs: one call at a time.
        encode = any(run.encodes for one in checked for run in one.runs)
        modules = {module for one in checked for module in one.modules}
        tokens = [len(of_ask.span) + sum(map(len, of_ask.texts)) for of_ask in inputs]
        count = 1 if encode else min(lanes(self._backbone, modules, sum(tokens)), len(checked))
        make = partial(
            Wave, self._backbone, max_new_tokens=self._max_new_tokens, max_bytes=self._max_bytes // count
        )
        calls = [
            partial(make, checked[first:end], inputs[first:end], self._rotary)
            for first, end in pairwise(_cuts(tokens, count))
        ]
        return [made() for made in side_by_side(self._backbone, modules, calls)]

    def _run_prompts(self, room: int) -> None:
        """Run the next rows of each wave up to the last layer, `room` of them in all."""
        waves = self._waves[:room]
        share = room // len(waves)
        modules = {module for wave in waves for module in wave.modules}
        calls = [partial(wave.advance, share) for wave in waves]
        for advanced in side_by_side(self._backbone, modules, calls):
            try:
                rows = advanced()
            except torch.OutOfMemoryError:
                # Of a wave that has gone on meanwhile one row at least was there, too.
                under_way = sum(max(1, min(wave.next_rows, share)) for wave in waves)
                self._limit.ran_out(len(self._pool.rows) + under_way)
                continue
            except NotFiniteError as error:
                self._fail(int(error.ask or 0), error)
                continue
            ended = self._ended(rows)
            self._waiting += [row for row in rows if row not in ended and row.question.ask in self._open]
        self._waves = [wave for wave in self._waves if not wave.done]

    def _decode(self) -> None:
        """One token of each row that decodes."""
        try:
            rows = self._pool.step()
        except torch.OutOfMemoryError:
            self._limit.ran_out(len(self._pool.rows))
            self._waiting = self._pool.put_back() + self._waiting
            return
        self._pool.leave(self._ended(rows))

    def _ended(self, rows: list[Decoding]) -> set[Decoding]:
        """Keep the answers that have ended: their rows."""
        ended = set()
        for row in rows:
            if row.ids[-1] == NOT_FINITE:
                ask, sample = row.question.ask, row.question.number
                self._fail(ask, NotFiniteError("the logits of its next token", ask=ask, sample=sample))
            elif row.ids[-1] in self._closing or len(row.ids) >= self._max_new_tokens:
                ended.add(row)
                self._keep(row)
        return ended | {row for row in rows if row.question.ask not in self._open}

    def _keep(self, row: Decoding) -> None:
        """Keep an answer for every run that shared its row, and the ask's answers once they are all there."""
        ask, prompt = row.question.ask, row.question.number
        if ask not in self._open:
            return
        text, ids, answers = self._text(row.ids), tuple(row.ids), self._open[ask]
        for member in row.members:
            answers[member.number, prompt] = Answer(ids, text, member.events)
        runs, prompts = self._sizes[ask]
        if len(answers) == runs * prompts:
            self._done[ask] = [[answers[run, number] for number in range(prompts)] for run in range(runs)]
            del self._open[ask], self._sizes[ask]
            self._since += runs * prompts

    def _fail(self, ask: int, error: Exception) -> None:
        """Let an ask go, whose turn it is to be raised once those before it are answered; none behind it is begun."""
        if ask in self._done:
            return
        self._done[ask] = AskError(ask, error)
        self._exhausted = True
        self._open = {number: answers for number, answers in self._open.items() if number < ask}
        self._again = [(number, one) for number, one in self._again if number < ask]
        gone = {row for row in self._pool.rows if row.question.ask >= ask}
        self._waiting = [row for row in self._waiting if row.question.ask < ask]
        for wave in self._waves:
            wave.keep_before(ask)
        self._waves = [wave for wave in self._waves if not wave.done]
        self._pool.leave(gone)


def _cuts(sizes: Sequence[int], count: int) -> list[int]:
    """Where to cut a row of things into so many pieces of about one size: first and end of each, one behind the other."""
    ends = list(accumulate(sizes, initial=0))
    cuts = [0]
    for piece in range(1, count):
        # Each piece gets one at least.
        possible = range(cuts[-1] + 1, len(sizes) - count + piece + 1)
        cuts.append(min(possible, key=lambda end: abs(ends[end] * count - ends[-1] * piece)))
    return [*cuts, len(sizes)]
