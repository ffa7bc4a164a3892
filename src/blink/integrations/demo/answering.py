"""One question answered without Blink, with interpolation only and with Blink, piece by piece, and the scan behind it.

All use of the model is in one thread (`integrations/server/answering.py`), whose queue all visitors share.
"""

import queue
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from blink.analysis.explain.answers import Explainer, Explanation, Side
from blink.bench import Sample
from blink.inference.engine import Answer
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.integrations.demo.asking import Asking
from blink.integrations.demo.plan import Shown
from blink.integrations.server.answering import Answering, explain
from blink.integrations.server.jobs import Errand, Job
from blink.integrations.server.requests import Question, RequestError
from blink.integrations.server.responses import Told
from blink.model.backbone import Backbone
from blink.model.token_sr.files import load_token_sr
from blink.runs.values import UserError

VANILLA, INTERP, BLINK, ENCODE = "without Blink", "Blink-interp", "Blink", "Blink-encode"


class Card(NamedTuple):
    """An answer as far as it has come.

    Attributes:
        name: of the way in which it is given.
        text: of it.
        told: the whole answer; None until it is there.
        flops: of picture, prompt and answer; None until they are counted, and where they are not.
    """

    name: str
    text: str = ""
    told: Told | None = None
    flops: int | None = None


class Progress(NamedTuple):
    """What is known of a question.

    Attributes:
        cards: one for each way to answer.
        explained: all answers with every layer's saliency and events; None until it is there.
        right: the right answer, "" where nobody knows.
    """

    cards: tuple[Card, ...]
    explained: Explanation | None
    right: str


class Demonstrator:
    """Answers the page's questions.

    Args:
        backbone: model and processor.
        shown: the page's settings.

    Raises:
        ValueError: policy and modules do not fit the backbone.
    """

    def __init__(self, backbone: Backbone, shown: Shown) -> None:
        self._backbone, self._shown = backbone, shown
        self._modules: dict[int, nn.Module] = {}
        self._reading = threading.Lock()
        self.sides(shown.policy)
        self._answering = Answering(backbone, {}, memory_gb=1, most=shown.limits.queue)

    def close(self) -> None:
        """Finish what waits."""
        self._answering.close()

    def sides(self, policy: Policy) -> list[Side]:
        """The ways to answer under a policy: without Blink, with interpolation only, and, where it is served, the third."""
        runs = {VANILLA: Run(), INTERP: Run(replace(policy, source="coarse")).resolve(self._backbone)}
        if policy.source == "encode":
            runs[ENCODE] = Run(policy).resolve(self._backbone)
        if self._shown.token_sr is not None:
            runs[BLINK] = self._with_modules(policy)
        return [Side(name, run, self._shown.max_new_tokens) for name, run in runs.items()]

    def answer(self, asking: Asking) -> Generator[Progress, None, None]:
        """Answer a question in every way, one after the other, then look at the scan.

        Raises:
            UserError: it cannot be answered, or not in time.
        """
        sides = self.sides(asking.policy)
        cards = [Card(side.name) for side in sides]
        # what arrives: the number of a side, or None for the scan, and a part of it
        arrived: queue.Queue[tuple[int | None, Any]] = queue.Queue()
        deadline = time.monotonic() + self._shown.limits.seconds
        work: list[Job | Errand[Explanation]] = []
        try:
            for number, side in enumerate(sides):
                tell = partial(_tell, arrived, number)
                work.append(Job(self._question(asking), deadline, tell, tell, side.run))
                self._submit(work[-1])
            yield Progress(tuple(cards), None, asking.answer)
            while not all(card.told for card in cards):
                place, part = self._next(arrived, deadline)
                assert place is not None, "the scan comes last"
                told = part if isinstance(part, Told) else None
                text = cards[place].text + part if told is None else told.text
                cards[place] = Card(cards[place].name, text, told)
                yield Progress(tuple(cards), None, asking.answer)
            answers = [card.told for card in cards if card.told]
            looking = partial(self._explain, asking, sides, answers)
            work.append(Errand(looking, deadline, partial(_tell, arrived, None)))
            self._submit(work[-1])
            _, explained = self._next(arrived, deadline)
        finally:
            for job in work:
                job.given_up.set()
        counted = [
            card._replace(flops=answered.flops)
            for card, answered in zip(cards, explained.answers, strict=True)
        ]
        yield Progress(tuple(counted), explained, asking.answer)

    def _question(self, asking: Asking) -> Question:
        return Question(
            model="",
            prompt=asking.prompt,
            image=asking.image,
            digest=asking.digest,
            max_new_tokens=self._shown.max_new_tokens,
            stops=(),
            sampling=None,
            stream=True,
            include_usage=False,
        )

    def _submit(self, work: "Job | Errand[Explanation]") -> None:
        try:
            self._answering.submit(work)
        except RequestError as error:
            raise UserError(str(error)) from error

    def _next(
        self, arrived: "queue.Queue[tuple[int | None, Any]]", deadline: float
    ) -> tuple[int | None, Any]:
        """The next part of an answer, or the scan.

        Raises:
            UserError: there is none, or the time is over.
        """
        try:
            number, part = arrived.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty as error:
            raise UserError(f"no answer within {self._shown.limits.seconds:g} seconds") from error
        if isinstance(part, Exception):
            raise UserError(str(explain(part))) from part
        return number, part

    def _explain(self, asking: Asking, sides: list[Side], told: list[Told]) -> Explanation:
        """Every layer's saliency, events and cost of the answers; in the model's thread."""
        sample = Sample(
            id=asking.digest,
            image=asking.digest,
            question=asking.question,
            label=asking.answer,
            split="",
            open_image=asking.image.copy,
            details={"box": None if asking.box is None else list(asking.box)},
        )
        answers = [Answer(one.ids, one.text, one.events) for one in told]
        explainer = Explainer(self._backbone, self._shown.template, sides)
        return explainer(sample, answers, [one.seconds for one in told])

    def _with_modules(self, policy: Policy) -> Run:
        """A run with TokenSR; its modules are read once, when their layers are first asked for."""
        assert self._shown.token_sr is not None, "only a method with modules has this way"
        with self._reading:
            missing = [layer for layer in policy.layers if layer not in self._modules]
            if missing:
                width = self._backbone.hidden_size
                modules = load_token_sr(self._shown.token_sr, channels=width, layers=missing)
                some = Run(replace(policy, layers=missing), modules).resolve(self._backbone)
                self._modules |= some.placed(self._backbone).modules
            return Run(policy, {layer: self._modules[layer] for layer in policy.layers}).resolve(
                self._backbone
            )


def _tell(arrived: "queue.Queue[tuple[int | None, Any]]", number: int | None, part: Any) -> None:
    arrived.put((number, part))
