"""Many questions and many policies about pictures, for little more than the work in which they differ.

The answers are those of `attach` and greedy `generate` for each question and policy alone. The trunk is run once per
picture and prefix, an extension once per key (layer, region, module), text once per prompt and history of extensions, and
what is alike for several pictures runs in one call; on a CPU, with a small backbone, in two side by side (`lanes.py`).

Memory beside the weights: about `memory_gb`, half of it for rows that decode, half for what comes before: trunks,
extensions and text in flight; by an estimate from the model's widths. One picture and one row are always under way. What
does not fit waits; when a GPU runs out of memory all the same, the number of rows at once is halved from there on, and
rows that decoded wait with their keys on the CPU.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from blink.inference.calls.given import Given, checked_boxes
from blink.inference.engine.apart import Question, generate
from blink.inference.engine.asks import Answer, Ask, split_prompts
from blink.inference.engine.decoding import closing_tokens
from blink.inference.engine.pool import RowLimit
from blink.inference.engine.schedule import AskError, Pace, Schedule
from blink.inference.engine.wave import CheckedAsk
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.token_sr import placed
from blink.model.token_sr.files import load_token_sr
from blink.runs.values import NotFiniteError, UserError, number, whole_number


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
        self._apart = RowLimit()
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

    def answer_apart(
        self, asks: Sequence[Ask], *, max_new_tokens: int, batch: int = 1
    ) -> list[list[list[Answer]]]:
        """Answer prompts about pictures by `attach` and greedy `generate`: for each ask what `answer` returns, but for rounding.

        Nothing is shared between prompts or runs. Logits processors of the model's generation config, which `answer`
        refuses, are applied.

        Args:
            asks: whose `processed` is not read.
            max_new_tokens: how long an answer may get, at least 1.
            batch: prompts at once, padded to the longest; halved where a GPU runs out of memory.

        Raises:
            ValueError: as `answer` raises it, or Blink is attached to the model already.
            NotFiniteError: as `answer` raises it; `ask` and `sample` are the numbers of ask and prompt.
        """
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        batch = whole_number("batch", batch)
        runs: list[Run] = []
        # by run, and by whether the samples have names; then by the numbers of ask, run and prompt
        groups: dict[tuple[int, bool], dict[tuple[int, int, int], Question]] = {}
        for a, ask in enumerate(asks):
            ask.check()
            for r, run in enumerate(ask.runs):
                if run not in runs:
                    runs.append(run)
                questions = groups.setdefault((runs.index(run), ask.sample_keys is not None), {})
                for p, prompt in enumerate(ask.prompts):
                    key = None if ask.sample_keys is None else ask.sample_keys[p]
                    box = None if ask.boxes is None else ask.boxes[p]
                    questions[a, r, p] = Question(ask.image, prompt, key, box)
        found: dict[tuple[int, int, int], Answer] = {}
        for (index, _), questions in groups.items():
            run, left = self._resolve(runs[index]), list(questions)
            while left:
                now = left[: min(batch, self._apart.rows or batch)]
                asked = [questions[place] for place in now]
                try:
                    answers = generate(self._backbone, run, asked, max_new_tokens, self._text)
                except torch.OutOfMemoryError:
                    self._apart.ran_out(len(now))
                    continue
                except NotFiniteError as error:
                    a, _, p = now[int(error.sample or 0)]
                    raise error.of(a, p) from error
                found |= zip(now, answers, strict=True)
                left = left[len(now) :]
        return [
            [[found[a, r, p] for p in range(len(ask.prompts))] for r in range(len(ask.runs))]
            for a, ask in enumerate(asks)
        ]

    def answer_alone(
        self,
        image: Image.Image,
        prompt: str,
        run: Run,
        *,
        max_new_tokens: int,
        box: Sequence[float] | None = None,
    ) -> Answer:
        """Answer one prompt under one run as `answer_apart` does; `box` is as an entry of `Ask.boxes`."""
        ask = Ask(image, [prompt], [run], boxes=[box])
        try:
            [[[answer]]] = self.answer_apart([ask], max_new_tokens=max_new_tokens)
        except NotFiniteError as error:
            raise error.of(None, error.sample) from error
        return answer

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
