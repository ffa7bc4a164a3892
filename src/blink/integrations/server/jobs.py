"""What waits for its turn with the model: requests, and other work."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from blink.inference.run import Run
from blink.integrations.server.requests import Question
from blink.integrations.server.responses import Told

T = TypeVar("T")


class Job:
    """A request under way.

    Args:
        deadline: of `time.monotonic`; behind it nobody waits any more.
        on_piece: is called, in the model's thread, with each piece of text of a stream.
        on_end: is called there, once, with the whole answer or with why there is none.
        run: how to answer, resolved and placed, in place of what the question's model names; of requests that go alone.

    Attributes:
        given_up: set where the client is gone.
    """

    def __init__(
        self,
        question: Question,
        deadline: float,
        on_piece: Callable[[str], None],
        on_end: Callable[[Told | Exception], None],
        run: Run | None = None,
    ) -> None:
        self.question, self.deadline, self.run = question, deadline, run
        self.on_piece, self.on_end = on_piece, on_end
        self.given_up = threading.Event()

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self.given_up.is_set() and time.monotonic() < self.deadline

    @property
    def alone(self) -> bool:
        """Whether it cannot share an engine call."""
        return self.question.image is None or self.question.stream or self.question.sampling is not None


class Errand(Generic[T]):
    """Other work with the model that waits for its turn among requests; no two threads use a model at once.

    Args:
        work: is called in the model's thread, and may fail.
        deadline, on_end: as of a `Job`; `on_end` gets what `work` returns, or the exception.
    """

    alone = True

    def __init__(
        self, work: Callable[[], T], deadline: float, on_end: Callable[[T | Exception], None]
    ) -> None:
        self._work, self._deadline, self.on_end = work, deadline, on_end
        self.given_up = threading.Event()

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.given_up.is_set() and time.monotonic() < self._deadline

    def run(self) -> None:
        """Do it."""
        self.on_end(self._work())
