"""A backbone as an answerer: samples about one picture in, each run's greedy answers out, and what each question costs."""

import logging
from collections.abc import Sequence
from functools import lru_cache

import torch
from PIL import Image

from blink.bench import Sample
from blink.evaluation.checks import outlined
from blink.evaluation.cost import Meter
from blink.evaluation.plan import Checkpoint, Plan
from blink.inference.algorithm import Run
from blink.inference.engine import Answer, Engine
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.prompts import Template

log = logging.getLogger(__name__)


class BackboneAnswerer:
    """Answers samples with a backbone, as several runs would.

    Args:
        backbone: model and processor.
        template: how a question becomes the prompt.
        runs: policy and modules of each; calls name them by index.
        max_new_tokens: how long an answer may get.
        memory_gb: see `Engine`.
        alone: answer every question by a `generate` of its own, with Blink attached for the length of the call; the
            answers are the same, and nothing is shared between questions and runs.

    Raises:
        ValueError: `alone`, and policy and modules of a run do not fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        template: Template,
        runs: Sequence[Run],
        *,
        max_new_tokens: int,
        memory_gb: float = 4.0,
        alone: bool = False,
    ) -> None:
        self.engine = Engine(backbone, memory_gb=memory_gb)
        self.template = template
        self.runs = [run.resolve(backbone) for run in runs] if alone else runs
        self.max_new_tokens = max_new_tokens
        self.alone = alone
        self.meters = [
            Meter(backbone.model.config, backbone.processor.tokenizer, run.policy, run.token_sr)
            for run in runs
        ]

    def answer(
        self, image: Image.Image, samples: Sequence[Sample], runs: Sequence[int]
    ) -> list[list[Answer]]:
        """Answer samples about one picture: for each run, one answer per sample in their order."""
        prompts = [self.template.prompt(sample.question) for sample in samples]
        chosen = [self.runs[run] for run in runs]
        if not self.alone:
            return self.engine.answer(image, prompts, chosen, max_new_tokens=self.max_new_tokens)
        return [
            [
                self.engine.answer_alone(image, prompt, run, max_new_tokens=self.max_new_tokens)
                for prompt in prompts
            ]
            for run in chosen
        ]

    def flops(self, size: tuple[int, int], sample: Sample, answer: Answer, run: int) -> int:
        """FLOPs of a question answered alone, about a picture of (width, height)."""
        prompt = self.template.prompt(sample.question)
        return self.meters[run](size, prompt, answer.events, len(answer.ids))


def load_answerer(plans: Sequence[Plan]) -> BackboneAnswerer:
    """Load the backbone of some plans that agree in it, in the benchmark and in the template; runs are numbered as the plans."""
    first = plans[0]
    return BackboneAnswerer(
        load_checkpoint(first.backbone),
        first.template,
        [Run(plan.policy, plan.token_sr) for plan in plans],
        max_new_tokens=first.benchmark.max_new_tokens,
        memory_gb=first.memory_gb,
        alone=first.reuse == "none",
    )


@lru_cache(maxsize=1)
def load_checkpoint(checkpoint: Checkpoint) -> Backbone:
    """Load a backbone, or return the one that was used before."""
    if checkpoint.device == "auto":
        checkpoint = checkpoint._replace(device="cuda" if torch.cuda.is_available() else "cpu")
    log.info(
        "loading the backbone %s on %s",
        checkpoint.path,
        checkpoint.device_map or checkpoint.device,
    )
    outline = outlined(checkpoint.path, revision=checkpoint.revision)
    return load_backbone(**checkpoint._asdict() | {"path": outline})
