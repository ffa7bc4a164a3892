"""A backbone as an answerer: samples about one picture in, each run's greedy answers and events out.

Two of them give the same answers: one shares what questions and runs have in common, the other shares nothing.

Axes: N tokens of a prompt, T tokens of prompt and answer.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from blink.bench import Answer, Sample
from blink.evaluation.cost import Meter
from blink.evaluation.plan import Checkpoint, Plan
from blink.evaluation.predict import Answerer
from blink.inference.algorithm import Run
from blink.inference.engine import Engine
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.prompts import Template

log = logging.getLogger(__name__)


class EngineAnswerer:
    """Answers all samples about a picture, as all runs would, with one pass of the engine.

    Args:
        backbone: model and processor.
        template: how a question becomes the prompt.
        runs: what answers; calls name them by number.
        max_new_tokens: how long an answer may get.
        memory_gb: see `Engine`.
    """

    def __init__(
        self,
        backbone: Backbone,
        template: Template,
        runs: Sequence[Run],
        *,
        max_new_tokens: int,
        memory_gb: float = 4.0,
    ) -> None:
        self.engine = Engine(backbone, memory_gb=memory_gb)
        self.template = template
        self.runs = runs
        self.max_new_tokens = max_new_tokens
        self.meters = _meters(backbone, runs)

    def __call__(self, samples: Sequence[Sample], runs: Sequence[int]) -> list[list[Answer]]:
        """Answer samples about one picture: for each run, one answer per sample in their order."""
        image = samples[0].load_image()
        prompts = [self.template.prompt(sample.question) for sample in samples]
        answers = self.engine.answer(
            image,
            prompts,
            [self.runs[run] for run in runs],
            max_new_tokens=self.max_new_tokens,
        )
        return [
            [
                Answer(
                    answer.text.strip(),
                    len(answer.ids),
                    answer.events,
                    self.meters[run](image.size, prompt, answer.events, len(answer.ids)),
                )
                for prompt, answer in zip(prompts, of_run, strict=True)
            ]
            for run, of_run in zip(runs, answers, strict=True)
        ]


class OneByOneAnswerer:
    """Answers every sample by a greedy `generate` of its own, with Blink attached for the length of a call.

    Args:
        backbone, template, runs, max_new_tokens: as for `EngineAnswerer`.

    Raises:
        ValueError: policy and modules of a run do not fit the backbone.
    """

    def __init__(
        self, backbone: Backbone, template: Template, runs: Sequence[Run], *, max_new_tokens: int
    ) -> None:
        self.engine = Engine(backbone)
        self.template = template
        self.max_new_tokens = max_new_tokens
        self.meters = _meters(backbone, runs)
        self.runs = [run.resolve(backbone) for run in runs]

    def __call__(self, samples: Sequence[Sample], runs: Sequence[int]) -> list[list[Answer]]:
        """Answer samples: for each run, one answer per sample in their order."""
        return [[self._answer(sample, run) for sample in samples] for run in runs]

    def _answer(self, sample: Sample, number: int) -> Answer:
        """One answer to one sample."""
        image, prompt = sample.load_image(), self.template.prompt(sample.question)
        answer = self.engine.answer_alone(
            image, prompt, self.runs[number], max_new_tokens=self.max_new_tokens
        )
        flops = self.meters[number](image.size, prompt, answer.events, len(answer.ids))
        return Answer(answer.text.strip(), len(answer.ids), answer.events, flops)


def _meters(backbone: Backbone, runs: Sequence[Run]) -> list[Meter]:
    return [
        Meter(
            backbone.model.config,
            backbone.processor.tokenizer,
            run.policy,
            run.token_sr if run.token_sr is None or isinstance(run.token_sr, Mapping) else str(run.token_sr),
        )
        for run in runs
    ]


def load_answerer(plans: Sequence[Plan]) -> Answerer:
    """Load the backbone of some plans that agree in it, in the benchmark and in the template; runs are numbered so."""
    first = plans[0]
    arguments: dict[str, Any] = {
        "backbone": load_checkpoint(first.backbone),
        "template": first.template,
        "runs": [Run(plan.policy, plan.token_sr) for plan in plans],
        "max_new_tokens": first.benchmark.max_new_tokens,
    }
    if first.reuse == "none":
        return OneByOneAnswerer(**arguments)
    return EngineAnswerer(**arguments, memory_gb=first.memory_gb)


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
    return load_backbone(**checkpoint._asdict())
