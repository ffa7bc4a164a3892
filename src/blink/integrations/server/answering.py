"""The one thread in which the model answers.

Greedy requests that wait and agree in how long an answer may get share an engine call, and those about one picture its
trunk. Streams, samples and text alone go one by one through `attach` and the stock `generate`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer
from transformers.generation import LogitsProcessorList

from blink.evaluation.answering.parts import fitting
from blink.inference.engine import Answer, Ask, Engine
from blink.inference.engine.decoding import FiniteLogits, closing_ids
from blink.inference.run import Run
from blink.integrations.alone import attached, cut, prompt_tokens
from blink.integrations.server.jobs import Errand, Job
from blink.integrations.server.requests import Question, RequestError
from blink.integrations.server.responses import Told
from blink.model.backbone import Backbone
from blink.model.image_inputs import PictureShapes, prompt_inputs
from blink.runs.values import UserError

log = logging.getLogger(__name__)


class Answering:
    """Answers requests in a thread of its own.

    Args:
        runs: by name, as `Question.model` names them.
        most: requests that may wait.

    Raises:
        ValueError: a run does not fit the backbone.
    """

    def __init__(self, backbone: Backbone, runs: Mapping[str, Run], *, memory_gb: float, most: int) -> None:
        self._backbone = backbone
        self._engine = Engine(backbone, memory_gb=memory_gb)
        self._runs = {name: run.resolve(backbone).placed(backbone) for name, run in runs.items()}
        self._shapes = PictureShapes(backbone)
        self._closing = closing_ids(backbone.model.generation_config)
        self._most = most
        self._waiting: deque[Job | Errand[Any]] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="blink-answering", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._waiting)

    def submit(self, job: Job | Errand[Any]) -> None:
        """Put a request behind the others.

        Raises:
            RequestError: too many wait, or the server ends.
        """
        with self._changed:
            if self._ending:
                raise RequestError(503, "the server is shutting down")
            if len(self._waiting) >= self._most:
                raise RequestError(429, f"{self._most} requests wait already; try again later")
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            try:
                match jobs:
                    case [Errand() as errand]:
                        errand.run()
                    case [Job(alone=True) as job]:
                        self._generate(job)
                    case _:
                        self._share([job for job in jobs if isinstance(job, Job)])
            except Exception as error:
                for each in jobs:
                    each.on_end(error)

    def _next(self) -> Sequence[Job | Errand[Any]]:
        """The first request that is still wanted, and those that can share its engine call; none once all is over."""
        with self._changed:
            while True:
                self._waiting = deque(job for job in self._waiting if job.wanted)
                if self._waiting or self._ending:
                    break
                self._changed.wait()
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            if isinstance(first, Errand) or first.alone:
                return [first]
            longest = first.question.max_new_tokens
            others = [
                job
                for job in self._waiting
                if isinstance(job, Job) and not job.alone and job.question.max_new_tokens == longest
            ]
            self._waiting = deque(job for job in self._waiting if job not in others)
            return [first, *others]

    def _share(self, jobs: Sequence[Job]) -> None:
        """Answer requests in one engine call: a picture's under one policy are an ask."""
        groups: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            groups.setdefault((job.question.digest, job.question.model), []).append(job)
        waiting = dict(groups)
        try:
            asks = [self._ask(group) for group in groups.values()]
            found = self._engine.answer_many(asks, max_new_tokens=jobs[0].question.max_new_tokens)
            for key, [answers] in zip(groups, found, strict=True):
                self._tell(waiting.pop(key), answers)
        except Exception as error:
            rest = [job for group in waiting.values() for job in group]
            if len(rest) > 1:  # one of them cannot be answered; the others can
                log.warning("%s: answering %d requests one by one", error, len(rest))
                for job in rest:
                    self._share([job])
            else:
                rest[0].on_end(error)

    def _ask(self, group: Sequence[Job]) -> Ask:
        first = group[0].question
        assert first.image is not None, "a request without a picture goes alone"
        run, _ = self._run(group[0])
        return Ask(first.image, [job.question.prompt for job in group], [run])

    def _run(self, job: Job) -> tuple[Run, str | None]:
        """How a request is answered, and why without Blink, where its picture is too narrow for it."""
        question = job.question
        run = self._runs[question.model] if job.run is None else job.run
        if question.image is None:
            return Run(), None if run.policy is None else "there is no picture"
        return fitting(run, self._shapes(question.image.size).grid)

    def _tell(self, group: Sequence[Job], answers: Sequence[Answer]) -> None:
        for job, answer in zip(group, answers, strict=True):
            question = job.question
            text, ended = cut(answer.text, question.stops)
            closed = ended or (bool(answer.ids) and answer.ids[-1] in self._closing)
            job.on_end(
                Told(
                    text,
                    "stop" if closed else "length",
                    self._prompt_tokens(question),
                    answer.ids,
                    answer.events,
                    self._run(job)[1],
                )
            )

    def _prompt_tokens(self, question: Question) -> int:
        """Tokens of a prompt, those of its picture included."""
        images = [] if question.image is None else [question.image]
        return prompt_tokens(self._backbone, self._shapes, question.prompt, images)

    @torch.inference_mode()
    def _generate(self, job: Job) -> None:
        """Answer one request by the stock `generate`, its text handed on as it grows."""
        question, backbone = job.question, self._backbone
        model, tokenizer = backbone.model, backbone.processor.tokenizer
        run, note = self._run(job)
        start = time.monotonic()
        if question.image is None:
            inputs = tokenizer([question.prompt], return_tensors="pt").to(backbone.device)
        else:
            inputs = prompt_inputs(backbone, [question.image], [question.prompt])
        streamer = _Stream(tokenizer, question.stops, job.on_piece)
        settings: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if question.sampling is not None:
            drawn = question.sampling
            settings |= {
                "do_sample": True,
                "temperature": drawn.temperature,
                "top_p": drawn.top_p,
                "top_k": 0,
            }
        with ExitStack() as stack:
            images = [] if question.image is None else [question.image]
            handle = stack.enter_context(attached(backbone, run, images))
            if question.sampling is not None and question.sampling.seed is not None:
                stack.enter_context(torch.random.fork_rng(devices=_cuda_devices(model)))
                torch.manual_seed(question.sampling.seed)
            ids_1S = model.generate(
                **inputs,
                **settings,
                num_beams=1,
                max_new_tokens=question.max_new_tokens,
                streamer=streamer,
                logits_processor=LogitsProcessorList([FiniteLogits()]),
                stopping_criteria=StoppingCriteriaList([_Until(lambda: streamer.ended or not job.wanted)]),
            )
            events = () if handle is None else tuple(handle.trace[0])
        new: list[int] = ids_1S[0, inputs["input_ids"].shape[1] :].tolist()
        closed = streamer.ended or (bool(new) and new[-1] in self._closing)
        counted = self._prompt_tokens(question)
        seconds = time.monotonic() - start
        job.on_end(
            Told(streamer.text, "stop" if closed else "length", counted, tuple(new), events, note, seconds)
        )


class _Stream(TextStreamer):
    """Hands on text that no stop can take back any more.

    Attributes:
        text: what was handed on.
        ended: whether a stop was met.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], on_piece: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.text, self.ended = "", False
        self._held, self._stops, self._on_piece = "", stops, on_piece

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take the next piece of text, which tokens to come cannot change."""
        if self.ended:
            return
        self._held, self.ended = cut(self._held + text, self._stops)
        keep = 0 if stream_end or self.ended else max(map(len, self._stops), default=1) - 1
        piece = self._held[: len(self._held) - keep]
        self._held = self._held[len(piece) :]
        if piece:
            self.text += piece
            self._on_piece(piece)


class _Until(StoppingCriteria):
    """Ends a generation once a condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        return torch.full((len(input_ids),), self._condition(), device=input_ids.device)


def _cuda_devices(model: Any) -> list[Any]:
    return list({weight.device for weight in model.parameters() if weight.device.type == "cuda"})


def explain(error: Exception) -> RequestError:
    """What a client is told about an error in the model's thread: its own mistakes in words, others as ours."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, UserError):
        return RequestError(400, str(error))
    log.error("a request failed", exc_info=error)
    return RequestError(500, f"the model failed: {type(error).__name__}")
