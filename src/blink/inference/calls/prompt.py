"""The prompts of a call of a stock model, from the arguments of its multimodal forward and what a caller said of the rows.

Axes: B rows, S columns of the input.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blink.inference.cache import NO_PIXELS, BlinkCache, Pixels
from blink.inference.calls.given import Given
from blink.inference.calls.prompt_spans import prompt_spans, read_prompts
from blink.inference.calls.refusals import check_padding, check_positions, check_prompt
from blink.inference.crops import Samples
from blink.inference.run import Run
from blink.inference.spans import Spans
from blink.model.backbone import CACHE, Backbone
from blink.model.image_inputs import base_views, check_images, pixel_digests


@dataclass(frozen=True)
class Prompt:
    """The distinct prompts of a batch.

    Attributes:
        spans: of these.
        samples: what else they are known by.
        repeats: how many rows in a row share each (beams).
    """

    spans: Spans
    samples: Samples
    repeats: int


def read_prompt(
    backbone: Backbone, run: Run, given: Given, inputs: dict[str, Any], labels_BS: Tensor | None
) -> Prompt:
    """Check a prompt and find its spans and keys.

    Args:
        inputs: arguments of the multimodal forward, by name.
        labels_BS: tell where an answer follows the prompt, unless `given` does.

    Raises:
        ValueError: Blink cannot run such a prompt.
    """
    mask_BS = check_prompt(inputs)
    ids_BS = inputs["input_ids"]
    # All that the host has to know of a prompt, read at once: each time it waits for a GPU, which idles meanwhile.
    read = read_prompts(ids_BS, mask_BS)
    valid_BS = None if mask_BS is None or read.valid is None else mask_BS != 0
    cache = inputs.get(CACHE)
    repeats = cache.repeats if isinstance(cache, BlinkCache) else 1
    if isinstance(cache, BlinkCache) and read.valid is not None:  # only `generate` brings one
        check_padding(read.valid[::repeats])
    distinct = list(range(0, ids_BS.shape[0], repeats))
    ends = given.prompt_ends(len(distinct))
    if ends is not None:
        ends = [end for end in ends for _ in range(repeats)]
    spans = prompt_spans(backbone, inputs, valid_BS, ends, labels_BS, read)
    check_images(backbone, [ids.count(backbone.image_token_id) for ids in read.ids], inputs)
    check_positions(inputs.get("position_ids"), spans.position_CBN, valid_BS)
    spans = spans.select(distinct)
    pixels = cache.take_pixels() if isinstance(cache, BlinkCache) else NO_PIXELS
    if pixels == NO_PIXELS:
        pixels = read_pixels(backbone, run, given, inputs)
    rows = [read.prompt(row, last) for row, last in zip(distinct, spans.lasts, strict=True)]
    assert run.policy is not None, "what is attached has a policy"
    samples = Samples(
        keys=given.sample_keys(run.policy, rows, pixels.digests),
        boxes=given.seen_boxes(backbone, run.policy, len(rows)),
        crops=given.crops(backbone, run, ids_BS[::repeats], spans, pixels.views),
    )
    return Prompt(spans, samples, repeats)


def read_pixels(backbone: Backbone, run: Run, given: Given, inputs: Mapping[str, Any]) -> Pixels:
    """What a run will need of the pixels among the arguments of a forward or of `generate`."""
    if inputs.get("pixel_values") is None:
        return NO_PIXELS
    assert run.policy is not None, "what is attached has a policy"
    return Pixels(
        digests=pixel_digests(backbone, inputs) if run.policy.draws else None,
        views=base_views(backbone, inputs) if run.encodes and given.pictures is None else None,
    )
