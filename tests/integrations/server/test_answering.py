"""The model's thread: what shares an engine call, and what one bad request does to the others."""

import threading
import time
from typing import Any

import pytest

from blink.inference.engine import Engine
from blink.inference.run import Run
from blink.integrations.server.answering import Answering, Job, explain
from blink.integrations.server.requests import Question, RequestError
from blink.integrations.server.responses import Told
from blink.model.backbone import Backbone
from blink.model.prompts import template_of
from blink.runs.values import UserError
from tests import models


def question(backbone: Backbone, seed: int, text: str = "Red?", tokens: int = 3, **more: Any) -> Question:
    """A question about one of some pictures."""
    prompt = template_of(backbone.processor).prompt(text)
    known: dict[str, Any] = {"stops": (), "sampling": None, "stream": False, "include_usage": False}
    image = models.picture(seed, (96, 96))
    return Question("m", prompt, image, str(seed), tokens, **known | more)


def test_requests_that_wait_share_a_call(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a server that answers one by one, a picture that is encoded for each question, and a lost batch."""
    calls: list[list[int]] = []
    held, begun = threading.Event(), threading.Event()
    real = Engine.answer_many

    def slow(engine: Engine, asks: Any, **settings: Any) -> Any:
        asks = list(asks)
        calls.append([len(ask.prompts) for ask in asks])
        begun.set()
        held.wait(20)
        if any("damaged" in prompt for ask in asks for prompt in ask.prompts):
            raise UserError("a damaged one")
        return real(engine, asks, **settings)

    monkeypatch.setattr(Engine, "answer_many", slow)
    answering = Answering(tiny, {"m": Run()}, memory_gb=1, most=10)
    ends: dict[str, Told | Exception] = {}

    def job(name: str, asked: Question, seconds: float = 60) -> Job:
        def end(told: Told | Exception) -> None:
            assert name not in ends
            ends[name] = told

        return Job(asked, time.monotonic() + seconds, lambda _: None, end)

    answering.submit(job("first", question(tiny, 0)))
    assert begun.wait(20)
    late, gone = job("late", question(tiny, 0), seconds=0), job("gone", question(tiny, 0))
    gone.given_up.set()
    for waiting in (
        job("a", question(tiny, 1)),
        job("b", question(tiny, 1, "Blue?")),
        job("c", question(tiny, 2, "damaged")),
        job("longer", question(tiny, 2, tokens=4)),
        late,
        gone,
    ):
        answering.submit(waiting)
    held.set()
    answering.close()
    assert calls[:3] == [[1], [2, 1], [1]]  # with the damaged one together first, then each alone
    assert calls[-1] == [1]
    assert ends.keys() == {"first", "a", "b", "c", "longer"}
    assert isinstance(ends["c"], UserError)
    assert all(isinstance(ends[name], Told) for name in ("first", "a", "b", "longer"))
    with pytest.raises(RequestError, match="shutting down"):
        answering.submit(late)


def test_errors_are_told_by_whose_they_are() -> None:
    """Would catch a failure of ours that is blamed on the client, and one whose inside is told."""
    assert explain(UserError("too wide")).status == 400
    assert explain(RequestError(429, "later")).status == 429
    told = explain(RuntimeError("secret"))
    assert told.status == 500
    assert "secret" not in str(told)
