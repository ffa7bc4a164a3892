"""lmms-eval's requests as prompts, pictures and settings of a generation.

A request is an `Instance` of lmms-eval: `args` holds the question's text, keyword arguments of the generation, a function
from a document to its pictures, and where the document stands.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from blink.model.prompts import Template, prompt_about
from blink.runs.files import short_digest
from blink.runs.values import UserError, flag, number, optional, whole_number

log = logging.getLogger(__name__)

_LONGEST = 1024
"""Tokens of an answer where a task does not say, as for the other models of lmms-eval."""

_SAMPLING: Mapping[str, Callable[[str, Any], Any]] = {
    "top_p": lambda name, value: number(name, value, least=0, most=1),
    "top_k": lambda name, value: whole_number(name, value, least=0),
    "min_p": lambda name, value: number(name, value, least=0, most=1),
}
_OTHER: Mapping[str, Callable[[str, Any], Any]] = {
    "repetition_penalty": lambda name, value: number(name, value, above=0),
    "length_penalty": number,
    "no_repeat_ngram_size": lambda name, value: whole_number(name, value, least=0),
    "min_new_tokens": lambda name, value: whole_number(name, value, least=0),
}
_NEUTRAL: Mapping[str, Any] = {
    "repetition_penalty": 1,
    "length_penalty": 1,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
}
"""Values that change nothing of a greedy answer."""

_OF_OTHER_MODELS = ("image_aspect_ratio", "num_return_sequences", "use_cache")
"""Keywords that tasks give for the sake of single other models."""


class Generation(NamedTuple):
    """How an answer is made.

    Attributes:
        stops: texts before which it ends.
        settings: of `generate` beside these, as sorted pairs; none for the largest logit at each step.
    """

    max_new_tokens: int
    stops: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]

    @property
    def greedy(self) -> bool:
        """Whether the engine gives it: the largest logit as it is."""
        return not self.settings


class Question(NamedTuple):
    """A request, checked.

    Attributes:
        where: it comes from, for messages.
        prompt: the full prompt.
        pictures: how many it is about.
        digest: hash of their pixels: questions about one picture share work.
        load: reads the pictures anew, in RGB.
    """

    where: str
    prompt: str
    pictures: int
    digest: str
    load: Callable[[], list[Image.Image]]
    generation: Generation


def read_request(
    request: Any,
    documents: Mapping[str, Mapping[str, Any]],
    template: Template,
    processor: Any,
    *,
    stops: bool,
    answers_others: bool,
) -> Question:
    """Check a request; its pictures are read once to know which others are about the same.

    Args:
        documents: task -> split -> rows, as lmms-eval hands them to a model.
        stops: whether the stop texts of the task count.
        answers_others: whether it may be about no picture or several.

    Raises:
        UserError: it cannot be answered; says which and why.
    """
    context, keywords, to_visual, doc_id, task, split = request.args
    where = f"task {task}, document {doc_id}"
    try:
        if not isinstance(context, str):
            raise UserError(
                f"its text is a {type(context).__name__}; blink_mllm takes the simple form of tasks"
            )

        def load() -> list[Image.Image]:
            return _pictures(to_visual(documents[task][split][doc_id]))

        found = load()
        if len(found) != 1 and not answers_others:
            raise UserError(
                f"it is about {len(found)} pictures, and Blink answers about one; other_requests=stock in --model_args has "
                "such requests answered by the backbone as it is"
            )
        prompt = prompt_about(template, processor, context, len(found))
        return Question(
            where, prompt, len(found), _digest(found), load, read_generation(keywords, stops=stops)
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def read_generation(keywords: Mapping[str, Any], *, stops: bool = True) -> Generation:
    """Check the keyword arguments of a generation.

    It samples where the temperature is above 0, unless `do_sample` is false. Keywords that only other models read are
    left out; unknown ones, too, and the log says so.

    Raises:
        UserError: a value is out of range.
    """
    given = dict(keywords)
    until = given.pop("until", None) or ()
    texts = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(each, str) for each in texts):
        raise UserError(f"until={until!r}: expected texts")
    longest = given.pop("max_new_tokens", None)
    if longest is None:
        longest = given.pop("max_gen_toks", None)
    longest = whole_number("max_new_tokens", _LONGEST if longest is None else longest)
    temperature = optional(number, "temperature", given.pop("temperature", None))
    sampled = optional(flag, "do_sample", given.pop("do_sample", None))
    beams = whole_number("num_beams", given.pop("num_beams", None) or 1)
    if temperature is not None and temperature < 0:
        raise UserError(f"temperature={temperature}: expected 0 or more")
    samples = temperature != 0 and (bool(sampled) or (sampled is None and bool(temperature)))
    settings: dict[str, Any] = {}
    for name, check in (*_SAMPLING.items(), *_OTHER.items()):
        value = given.pop(name, None)
        if value is None or (name in _SAMPLING and not samples):
            continue
        if (checked := check(name, value)) != _NEUTRAL.get(name):
            settings[name] = checked
    settings.pop("length_penalty" if beams == 1 else "", None)
    if samples:
        settings |= {"do_sample": True, "temperature": 1.0 if temperature is None else temperature}
    if beams > 1:
        settings["num_beams"] = beams
    for name in given:
        if name not in _OF_OTHER_MODELS:
            _note_unknown(name)
    return Generation(longest, tuple(filter(None, texts)) if stops else (), tuple(sorted(settings.items())))


_noted: set[str] = set()


def _note_unknown(name: str) -> None:
    """Say once that a keyword has no effect."""
    if name not in _noted:
        _noted.add(name)
        log.warning("generation_kwargs: %s has no effect on blink_mllm", name)


def _pictures(visuals: Any) -> list[Image.Image]:
    """A document's pictures in RGB.

    Raises:
        UserError: there is anything else among them.
    """
    listed: Sequence[Any] = [visuals] if isinstance(visuals, Image.Image) else list(visuals or ())
    for visual in listed:
        if not isinstance(visual, Image.Image):
            kind = "a file" if isinstance(visual, str) else f"a {type(visual).__name__}"
            raise UserError(
                f"it comes with {kind}, a video or a sound perhaps; blink_mllm takes pictures alone"
            )
    return [visual if visual.mode == "RGB" else visual.convert("RGB") for visual in listed]


def _digest(pictures: Sequence[Image.Image]) -> str:
    return "+".join(short_digest(repr(each.size).encode() + each.tobytes()) for each in pictures)
