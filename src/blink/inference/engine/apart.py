"""Answers by greedy `generate` with Blink attached, some prompts in a padded batch: nothing is shared between them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers.generation import LogitsProcessorList

from blink.inference.attach import attach
from blink.inference.engine.asks import Answer
from blink.inference.engine.decoding import FiniteLogits, closing_ids
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.image_inputs import prompt_inputs

GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
"""LLaVA's evaluation; sampling settings of a checkpoint's generation config are taken back."""


class Question(NamedTuple):
    """A prompt about a picture; `key` and `box` are entries of `Ask.sample_keys` and `Ask.boxes`."""

    image: Image.Image
    prompt: str
    key: str | None
    box: Any


def generate(
    backbone: Backbone,
    run: Run,
    questions: Sequence[Question],
    max_new_tokens: int,
    text: Callable[[list[int]], str],
) -> list[Answer]:
    """Answer questions under one run in one batch, padded to the longest prompt.

    Args:
        questions: all with a key, or all without.
        run: resolved.
        text: what ids say.

    Raises:
        ValueError: a prompt has not one image with text behind it, the run does not fit the model, or Blink is attached to
            the model already.
        NotFiniteError: a saliency ratio or the largest logit is nan or infinite; `sample` is the question's number.
        torch.OutOfMemoryError: the batch is too large.
    """
    model = backbone.model
    images = [question.image for question in questions]
    inputs = prompt_inputs(backbone, images, [question.prompt for question in questions])
    handle = None if run.policy is None else attach(backbone, run.policy, run.token_sr)
    try:
        with torch.inference_mode(), ExitStack() as stack:
            by_box = run.policy is not None and run.policy.selector == "box"
            if handle is not None and (run.encodes or by_box):
                stack.enter_context(handle.pictures(images))
            if handle is not None and by_box:
                stack.enter_context(handle.boxes([question.box for question in questions]))
            keys = [question.key for question in questions if question.key is not None]
            if handle is not None and keys:
                stack.enter_context(handle.sample_keys(keys))
            ids_BS = model.generate(
                **inputs,
                **GREEDY,
                max_new_tokens=max_new_tokens,
                logits_processor=LogitsProcessorList([FiniteLogits()]),
            )
        trace = [[] for _ in questions] if handle is None else handle.trace
    finally:
        if handle is not None:
            handle.detach()
    closing = closing_ids(model.generation_config)
    new_BN: list[list[int]] = ids_BS[:, inputs["input_ids"].shape[1] :].tolist()
    answers = []
    for ids, events in zip(new_BN, trace, strict=True):
        length = next((i + 1 for i, token in enumerate(ids) if token in closing), len(ids))
        answers.append(Answer(tuple(ids[:length]), text(ids[:length]), tuple(events)))
    return answers
