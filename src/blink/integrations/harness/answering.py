"""Questions about one picture answered together, those of one length in one engine call; the rest one by one."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation import LogitsProcessorList

from blink.evaluation.answering.parts import fitting
from blink.inference.engine import Ask, Engine
from blink.inference.engine.apart import GREEDY
from blink.inference.engine.decoding import FiniteLogits, closing_ids
from blink.inference.run import Run
from blink.integrations.alone import attached, cut, prompt_tokens
from blink.integrations.harness.requests import Question
from blink.model.backbone import Backbone
from blink.model.image_inputs import PictureShapes, placed
from blink.runs.values import NotFiniteError

log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """An answer.

    Attributes:
        text: up to the first stop text.
        prompt_tokens: visual tokens included.
        new_tokens: up to the one that completes the stop text, or the closing token.
    """

    text: str
    prompt_tokens: int
    new_tokens: int


class Answering:
    """Answers questions with a backbone as one run does.

    Args:
        pictures: most that are answered at once; None: as many as `memory_gb` holds.

    Raises:
        ValueError: the run does not fit the backbone.
    """

    def __init__(self, backbone: Backbone, run: Run, *, memory_gb: float, pictures: int | None) -> None:
        self._backbone, self._pictures = backbone, pictures
        self._run = run.resolve(backbone).placed(backbone)
        self._engine = Engine(backbone, memory_gb=memory_gb)
        self._shapes = PictureShapes(backbone)
        self._tokenizer = backbone.processor.tokenizer

    def answer(self, questions: Sequence[Question], told: Callable[[], object] = lambda: None) -> list[Reply]:
        """Answer questions, in their order.

        Args:
            told: is called once for each question that is answered.

        Raises:
            NotFiniteError: nan or infinity among the numbers that an answer follows from; names the question.
        """
        replies: dict[int, Reply] = {}
        without: set[str] = set()
        for number, reply in self._answered(questions, without):
            replies[number] = reply
            told()
        if without:
            log.warning(
                "%d pictures are too narrow for the policy: their questions were answered without Blink",
                len(without),
            )
        return [replies[number] for number in range(len(questions))]

    def _answered(self, questions: Sequence[Question], without: set[str]) -> Iterator[tuple[int, Reply]]:
        """Numbers of questions and replies, as they come."""
        shared: dict[int, dict[str, list[int]]] = {}
        alone: list[int] = []
        for number, question in enumerate(questions):
            if question.pictures == 1 and question.generation.greedy:
                of_length = shared.setdefault(question.generation.max_new_tokens, {})
                of_length.setdefault(question.digest, []).append(number)
            else:
                alone.append(number)
        for longest, by_picture in shared.items():
            yield from self._shared(questions, by_picture, longest, without)
        for number in alone:
            yield number, self._alone(questions[number], without)

    def _shared(
        self,
        questions: Sequence[Question],
        by_picture: Mapping[str, Sequence[int]],
        longest: int,
        without: set[str],
    ) -> Iterator[tuple[int, Reply]]:
        """Answer greedy questions about one picture each; one that is asked several times, as repeats are, is answered once."""
        begun: list[tuple[Sequence[int], dict[str, int], int]] = []

        def asks() -> Iterator[Ask]:
            for numbers in by_picture.values():
                first = questions[numbers[0]]
                [image] = first.load()
                prompts = {
                    prompt: place
                    for place, prompt in enumerate(dict.fromkeys(questions[n].prompt for n in numbers))
                }
                begun.append((numbers, prompts, self._shapes(image.size).tokens))
                yield Ask(image, list(prompts), [self._fitting(first, image, without)])

        try:
            found = self._engine.answer_many(asks(), max_new_tokens=longest, pictures=self._pictures)
            for place, [answers] in enumerate(found):
                numbers, prompts, tokens = begun[place]
                for number in numbers:
                    question = questions[number]
                    answer = answers[prompts[question.prompt]]
                    counted = len(self._tokenizer(question.prompt)["input_ids"]) - 1 + tokens
                    yield number, self._reply(question, answer.ids, answer.text, counted)
        except NotFiniteError as error:
            numbers, prompts, _ = begun[error.ask or 0]
            prompt = list(prompts)[int(error.sample or 0)]
            where = next(questions[n].where for n in numbers if questions[n].prompt == prompt)
            raise error.of(None, where) from error

    @torch.inference_mode()
    def _alone(self, question: Question, without: set[str]) -> Reply:
        """Answer a question by a `generate` of its own: one that is not greedy, or not about one picture."""
        backbone, images, generation = self._backbone, question.load(), question.generation
        run = self._fitting(question, images[0], without) if len(images) == 1 else Run()
        counted = prompt_tokens(backbone, self._shapes, question.prompt, images)
        pictures = {"images": [images]} if images else {}
        inputs = placed(backbone, backbone.processor(text=[question.prompt], return_tensors="pt", **pictures))
        settings: dict[str, Any] = GREEDY | dict(generation.settings)
        length = inputs["input_ids"].shape[1]
        criteria = [_Stops(lambda ids: cut(self._decoded(ids[length:]), generation.stops)[1])]
        try:
            with attached(backbone, run, images):
                ids_1S = backbone.model.generate(
                    **inputs,
                    **settings,
                    max_new_tokens=generation.max_new_tokens,
                    logits_processor=LogitsProcessorList([FiniteLogits()]),
                    stopping_criteria=StoppingCriteriaList(criteria if generation.stops else []),
                )
        except NotFiniteError as error:
            raise error.of(None, question.where) from error
        ids: list[int] = ids_1S[0, length:].tolist()
        closing = closing_ids(backbone.model.generation_config)
        ids = ids[: next((place + 1 for place, token in enumerate(ids) if token in closing), len(ids))]
        return self._reply(question, ids, self._decoded(ids), counted)

    def _fitting(self, question: Question, image: Any, without: set[str]) -> Run:
        """The run, or the backbone as it is where a picture is too narrow for the policy."""
        run, why = fitting(self._run, self._shapes(image.size).grid)
        if why is not None:
            without.add(question.digest)
        return run

    def _reply(self, question: Question, ids: Sequence[int], text: str, counted: int) -> Reply:
        stops = question.generation.stops
        text, ended = cut(text, stops)
        length = len(ids)
        if ended:
            length = next(n for n in range(1, length + 1) if cut(self._decoded(ids[:n]), stops)[1])
        return Reply(text, counted, length)

    def _decoded(self, ids: Any) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class _Stops(StoppingCriteria):
    """Ends each row of a generation once its ids hold a stop text."""

    def __init__(self, ended: Callable[[torch.Tensor], bool]) -> None:
        self._ended = ended

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        return torch.tensor([self._ended(row) for row in input_ids], device=input_ids.device)
