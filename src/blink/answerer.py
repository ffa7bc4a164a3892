"""A backbone as an answerer: batches of samples in, greedy answers and Blink's events out.

Axes: B samples, T tokens of prompt and answer.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from blink.bench.base import Answer, Sample
from blink.checkpoints import LoadedBackbone
from blink.handle import attach
from blink.policy import Event, Policy
from blink.prompts import Template

GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
"""LLaVA's evaluation; sampling settings of a checkpoint's generation config are taken back."""


class GreedyAnswerer:
    """Answers samples with one left-padded greedy `generate` per batch.

    Blink is attached from construction until `close`, if there is a policy.

    Args:
        backbone: model and processor.
        template: how a question becomes the prompt.
        policy: None leaves the backbone as it is.
        token_sr: modules by layer, or where they are; None is Blink-interp.
        max_new_tokens: how long an answer may get.

    Raises:
        ValueError: policy and modules do not fit the backbone.
    """

    def __init__(
        self,
        backbone: LoadedBackbone,
        template: Template,
        *,
        policy: Policy | None,
        token_sr: str | Mapping[int, nn.Module] | None,
        max_new_tokens: int,
    ) -> None:
        self.model = backbone.model
        self.processor = backbone.processor
        self.template = template
        self.max_new_tokens = max_new_tokens
        closing = self.model.generation_config.eos_token_id
        self.closing = set(closing if isinstance(closing, list) else [closing])
        self.handle = None if policy is None else attach(self.model, policy, token_sr)

    def __call__(self, samples: Sequence[Sample]) -> list[Answer]:
        """Answer a batch, one answer per sample in their order."""
        inputs = self.processor(
            images=[sample.load_image() for sample in samples],
            text=[self.template.prompt(sample.question) for sample in samples],
            padding=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            ids_BT = self.model.generate(**inputs, **GREEDY, max_new_tokens=self.max_new_tokens)
        new_ids = ids_BT[:, inputs["input_ids"].shape[1] :].tolist()
        traces: list[list[Event]] = [[] for _ in samples] if self.handle is None else self.handle.trace
        return [self._answer(row, trace) for row, trace in zip(new_ids, traces, strict=True)]

    def close(self) -> None:
        """Give the model back as it was."""
        if self.handle is not None:
            self.handle.detach()

    def _answer(self, new_ids: list[int], trace: list[Event]) -> Answer:
        """Read one row of generated ids, padded after its closing token."""
        tokens = next((i + 1 for i, token in enumerate(new_ids) if token in self.closing), len(new_ids))
        response = self.processor.tokenizer.decode(new_ids[:tokens], skip_special_tokens=True)
        return Answer(response.strip(), tokens, tuple(trace))
