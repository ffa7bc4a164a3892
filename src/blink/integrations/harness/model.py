"""The class that lmms-eval makes for `--model blink_mllm`.

lmms_eval is imported once the class is asked for, so that this file can be read without it.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

import torch
from rich.progress import Progress, track

from blink.evaluation.planning.checkpoint import let_go
from blink.integrations.harness.answering import Answering
from blink.integrations.harness.arguments import read_arguments
from blink.integrations.harness.manifest import NAME
from blink.integrations.harness.requests import read_request
from blink.runs.values import UserError, whole_number

_PADDING = "__padding_only__"
"""Metadata of a request that lmms-eval adds so that all processes have as many; nobody reads its answer."""


class HarnessModel:
    """A backbone of transformers that answers with Blink: all of `BlinkMllm` but lmms-eval's base class.

    Args:
        batch_size: most pictures that are answered at once, where above 1; lmms-eval's default 1, and "auto", leave that to
            `memory_gb`, for questions about one picture share work in any case.
        max_batch_size: as `batch_size`, where that is "auto".
        device: "cpu", "cuda", "cuda:1"; None: a GPU if there is one. Of several processes each has a GPU of its own.
        arguments: of `--model_args`, see `read_arguments`.

    Raises:
        UserError: an argument is unknown or does not fit; says which and what to do.
    """

    is_simple = True
    task_dict: Mapping[str, Mapping[str, Any]]
    cache_hook: Any

    def __init__(
        self,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        from accelerate import Accelerator
        from loguru import logger

        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if device is not None:
            arguments["device"] = self._own(device)
        elif self._world_size > 1 and self.accelerator.device.type == "cuda":
            arguments["device"] = str(self.accelerator.device)
        at_once = _at_once(batch_size, max_batch_size)
        if at_once is not None:
            arguments.setdefault("pictures", at_once)
        self._settings = read_arguments(arguments)
        logger.info(f"blink_mllm: {self._settings.line}")  # loguru, which lmms-eval shows
        self._backbone = self._settings.backbone.load()
        self._device = self._backbone.device
        self._answering = Answering(
            self._backbone,
            self._settings.run,
            memory_gb=self._settings.memory_gb,
            pictures=self._settings.pictures,
        )

    @property
    def device(self) -> torch.device:
        """Where the backbone is, and where lmms-eval puts what it gathers from processes."""
        return self._device

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests: lmms-eval's results, which are texts with counts of tokens, in their order.

        All are checked before the first is answered.

        Raises:
            UserError: one cannot be answered; says which and why.
        """
        from lmms_eval.api.instance import GenerationResult, TokenCounts

        asked = [
            number for number, request in enumerate(requests) if not (request.metadata or {}).get(_PADDING)
        ]
        settings, processor = self._settings, self._backbone.processor
        questions = [
            read_request(
                requests[number],
                self.task_dict,
                settings.template,
                processor,
                stops=settings.stops,
                answers_others=settings.answers_others,
            )
            for number in track(asked, "reading pictures", disable=self._rank != 0)
        ]
        results = [GenerationResult(text="")] * len(requests)
        with Progress(disable=self._rank != 0) as progress:
            task = progress.add_task("answering", total=len(questions))
            replies = self._answering.answer(questions, lambda: progress.advance(task))
        for number, reply in zip(asked, replies, strict=True):
            counts = TokenCounts(input_tokens=reply.prompt_tokens, output_tokens=reply.new_tokens)
            results[number] = GenerationResult(text=reply.text, token_counts=counts)
            context, keywords = requests[number].args[:2]
            self.cache_hook.add_partial("generate_until", (context, keywords), reply.text)
        return results

    def clean(self) -> None:
        """Let go of the backbone once all is answered: lmms-eval may run a judge on the same GPU."""
        del self._answering, self._backbone
        let_go()
        super().clean()  # type: ignore[misc]  # of lmms-eval's base class

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Not to be had.

        Raises:
            UserError: always.
        """
        raise UserError(
            _refusal("likelihoods of given answers (output_type loglikelihood or multiple_choice)", requests)
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Not to be had.

        Raises:
            UserError: always.
        """
        raise UserError(_refusal("several rounds (output_type generate_until_multi_round)", requests))

    def apply_chat_template(self, *_: Any, **__: Any) -> NoReturn:
        """Not to be had: prompts are made by the template of `template=`.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"--apply_chat_template: {NAME} writes prompts by itself; leave it out, or choose template= in --model_args"
        )

    def _own(self, device: str) -> str:
        """A device as given, or this process's own GPU where several were given the same."""
        if self._world_size > 1 and device.partition(":")[0] == "cuda":
            return f"cuda:{self.accelerator.local_process_index}"
        return device


@cache
def _model() -> type:
    """`BlinkMllm`, on lmms-eval's base class."""
    from lmms_eval.api.model import lmms

    return type("BlinkMllm", (HarnessModel, lmms), {"__doc__": HarnessModel.__doc__, "__module__": __name__})


def __getattr__(name: str) -> Any:
    """Make `BlinkMllm` when it is asked for."""
    if name != "BlinkMllm":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _model()


def _refusal(what: str, requests: Sequence[Any]) -> str:
    tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
    return f"{NAME} does not do {what}, which {tasks} asks for: choose tasks of output_type generate_until"


def _at_once(batch_size: int | str, most: int | None) -> int | None:
    """Most pictures at once by lmms-eval's own options; None where they do not say.

    Raises:
        UserError: a batch size is no number above 0 and not "auto".
    """
    if str(batch_size).partition(":")[0] == "auto":
        return None if most is None else whole_number("--max_batch_size", most)
    if str(batch_size).isdecimal() and (number := int(batch_size)) > 0:
        return None if number == 1 else number
    raise UserError(f"--batch_size {batch_size}: expected a whole number above 0, or auto")
