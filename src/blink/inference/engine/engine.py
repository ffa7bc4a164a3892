"""Many questions and many policies about pictures, for little more than the work in which they differ.

The answers are those of `attach` and greedy `generate` for each question and policy alone. The trunk is run once per
picture and prefix, an extension once per key (layer, region, module), text once per prompt and history of extensions, and
what is alike for several pictures runs in one call.

Memory beside the weights: about `memory_gb`, half of it for rows that decode, half for what comes before: trunks,
extensions and text in flight; by an estimate from the model's widths. One picture and one row are always under way. What
does not fit waits; when a GPU runs out of memory all the same, the number of rows at once is halved from there on.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers.generation import LogitsProcessorList

from blink.inference.attach import attach
from blink.inference.calls.given import Given, checked_boxes
from blink.inference.engine.asks import Answer, Ask, check_runs, check_texts, split_prompts
from blink.inference.engine.decoding import FiniteLogits, closing_ids, closing_tokens
from blink.inference.engine.pool import RowLimit
from blink.inference.engine.schedule import AskError, Pace, Schedule
from blink.inference.engine.wave import CheckedAsk
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.image_inputs import prompt_inputs
from blink.model.token_sr import placed
from blink.model.token_sr.files import load_token_sr
from blink.runs.values import NotFiniteError, UserError, number, whole_number

GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
"""LLaVA's evaluation; sampling settings of a checkpoint's generation config are taken back."""


class Engine:
    """Answers many prompts about pictures under many runs; it changes nothing of the model.

    Args:
        model: one of the classes of `blink.model.families`, or the `Backbone` of one.
        processor: its processor; None is the one that the `Backbone` carries.
        memory_gb: how much memory rows and extensions may take, in GiB, by estimate (see above).

    Raises:
        ValueError: the model is of another kind or offloaded, there is no processor, or `memory_gb` is not above 0.
    """

    def __init__(self, model: nn.Module | Backbone, processor: Any = None, *, memory_gb: float = 4.0) -> None:
        memory_gb = number("memory_gb", memory_gb, above=0)
        self._backbone = Backbone.of(model, processor)
        self._backbone.check_weights()
        if self._backbone.processor is None:
            raise UserError(
                "processor is missing: Engine(model, processor) needs what turns prompts into tokens"
            )
        self._bytes = int(memory_gb * 2**30)
        self._limit, self._pace = RowLimit(), Pace(self._bytes // 4)
        self._folders: dict[str, dict[int, nn.Module]] = {}
        self._placed: dict[tuple[int, int], tuple[nn.Module, nn.Module]] = {}

    def answer(
        self,
        image: Image.Image,
        prompts: Sequence[str],
        runs: Sequence[Run],
        *,
        max_new_tokens: int,
        sample_keys: Sequence[str] | None = None,
        boxes: Sequence[Sequence[float] | None] | None = None,
    ) -> list[list[Answer]]:
        """Answer every prompt about one picture under every run; the arguments are those of `Ask`.

        Args:
            max_new_tokens: how long an answer may get, at least 1.

        Returns:
            For each run a list of one answer per prompt.

        Raises:
            ValueError: there is no prompt or no run, a prompt has not one image with text behind it, a run is none or does
                not fit the model, or the model's generation config changes logits.
            NotFiniteError: a saliency ratio or the largest logit is nan or infinite; names the prompt.
        """
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        ask = Ask(image, prompts, runs, sample_keys, boxes)
        try:
            [answers] = self._schedule([ask], max_new_tokens, 1)
        except AskError as failed:
            error = failed.error
            raise error.of(None, error.sample) if isinstance(error, NotFiniteError) else error from None
        return answers

    def answer_many(
        self, asks: Iterable[Ask], *, max_new_tokens: int, pictures: int | None = None
    ) -> Iterator[list[list[Answer]]]:
        """Answer prompts about many pictures: for each ask what `answer` returns, in the order of the asks.

        Args:
            asks: read as they are needed, so that pictures may be decoded meanwhile.
            max_new_tokens: how long an answer may get, at least 1.
            pictures: most pictures under way at once; None: as many as `memory_gb` holds, and as the first calls of the
                engine find to be quick.

        Raises:
            ValueError: as `answer` raises it; names the number of the ask.
            NotFiniteError: as `answer` raises it; `ask` and `sample` are the numbers of ask and prompt.
        """
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        if pictures is not None:
            whole_number("pictures", pictures)
        return _naming_asks(self._schedule(asks, max_new_tokens, pictures))

    def _schedule(
        self, asks: Iterable[Ask], max_new_tokens: int, pictures: int | None
    ) -> Iterator[list[list[Answer]]]:
        """Answer asks; errors name them."""
        schedule = Schedule(
            self._backbone,
            asks,
            self._check,
            self._text,
            closing=closing_tokens(self._backbone.model),
            max_new_tokens=max_new_tokens,
            max_bytes=self._bytes // 2,
            pictures=pictures,
            pace=self._pace,
            limit=self._limit,
        )
        return iter(schedule)

    def _check(self, number: int, ask: Ask) -> CheckedAsk:
        """Check an ask as far as that can be done without its picture's pixels.

        Raises:
            ValueError: it does not fit the model.
        """
        ask.check()
        runs = [self._resolve(run) for run in ask.runs]
        boxes = None if ask.boxes is None else checked_boxes(ask.boxes)
        given = Given(boxes=boxes, pictures=[ask.image] * len(ask.prompts))
        by_box = [run.policy for run in runs if run.policy is not None and run.policy.selector == "box"]
        seen = given.seen_boxes(self._backbone, by_box[0], len(ask.prompts)) if by_box else None
        return CheckedAsk(number, ask, runs, split_prompts(self._backbone, ask.prompts), seen)

    def answer_alone(
        self,
        image: Image.Image,
        prompt: str,
        run: Run,
        *,
        max_new_tokens: int,
        box: Sequence[float] | None = None,
    ) -> Answer:
        """Answer one prompt under one run by a greedy `generate`, with Blink attached for the length of the call.

        Nothing is shared with other prompts or runs. Logits processors of the model's generation config, which
        `answer` refuses, are applied. `box` is as an entry of its `boxes`.

        Raises:
            ValueError: the prompt has not one image with text behind it, the run does not fit the model, or Blink is
                attached to the model already.
            NotFiniteError: as `answer` raises it.
        """
        check_texts("prompts", [prompt])
        check_runs([run])
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        model, run = self._backbone.model, self._resolve(run)
        inputs = prompt_inputs(self._backbone, [image], [prompt])
        handle = None if run.policy is None else attach(self._backbone, run.policy, run.token_sr)
        try:
            with torch.inference_mode(), ExitStack() as stack:
                by_box = run.policy is not None and run.policy.selector == "box"
                if handle is not None and (run.encodes or by_box):
                    stack.enter_context(handle.pictures([image]))
                if handle is not None and by_box:
                    stack.enter_context(handle.boxes([box]))
                ids_1S = model.generate(
                    **inputs,
                    **GREEDY,
                    max_new_tokens=max_new_tokens,
                    logits_processor=LogitsProcessorList([FiniteLogits()]),
                )
            events = () if handle is None else tuple(handle.trace[0])
        finally:
            if handle is not None:
                handle.detach()
        ids: list[int] = ids_1S[0, inputs["input_ids"].shape[1] :].tolist()
        closing = closing_ids(model.generation_config)
        length = next((i + 1 for i, token in enumerate(ids) if token in closing), len(ids))
        return Answer(tuple(ids[:length]), self._text(ids[:length]), events)

    def _text(self, ids: list[int]) -> str:
        text: str = self._backbone.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _resolve(self, run: Run) -> Run:
        """Resolve a run and place its modules, as `Run.placed`, but one copy of a module for all runs that hold it.

        Raises:
            ValueError: the run does not fit the model.
        """
        if isinstance(run.policy, Policy) and isinstance(run.token_sr, str | os.PathLike):
            run = Run(run.policy, self._from_folder(str(run.token_sr), run.policy))
        run = run.resolve(self._backbone)
        modules = {layer: self._at_layer(layer, module) for layer, module in run.modules.items()}
        return Run(run.policy, modules or None)

    def _from_folder(self, folder: str, policy: Policy) -> dict[int, nn.Module]:
        """The modules of a folder, read once."""
        known = self._folders.setdefault(folder, {})
        missing = [layer for layer in policy.layers if layer not in known]
        if missing:
            known |= load_token_sr(folder, channels=self._backbone.hidden_size, layers=missing)
        return known

    def _at_layer(self, layer: int, module: nn.Module) -> nn.Module:
        """A module on its layer's device, in its dtype: itself, or one copy of it."""
        if (id(module), layer) not in self._placed:
            self._placed[id(module), layer] = (
                module,
                placed(module, self._backbone.device_of(layer), self._backbone.dtype),
            )
        return self._placed[id(module), layer][1]


def _naming_asks(results: Iterator[list[list[Answer]]]) -> Iterator[list[list[Answer]]]:
    """The results of asks; errors about one say its number."""
    try:
        yield from results
    except AskError as failed:
        error = failed.error
        if isinstance(error, UserError) and not isinstance(error, NotFiniteError):
            raise UserError(str(failed)) from error
        if not isinstance(error, NotFiniteError):
            error.add_note(f"ask {failed.ask}")
        raise error from None
