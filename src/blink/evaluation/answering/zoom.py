"""Zooming in after the fact (`method=zoom`, Fig. 1): one pass to look, and where it looks at one region a second about it.

The post-hoc way that Blink is held against, as ViCrop does it: the first pass is the stock model's, and the region that
would be expanded at the first scanned layer is cut out of the original picture; the second pass has the crop's tokens
behind the picture's from layer 0 on. Both passes run whole, which is what it costs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from blink.evaluation.answering.parts import Box, Part, Picture
from blink.inference.boxes import SeenBox
from blink.inference.engine import Answer
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.families import Grid
from blink.model.token_sr import region_box


def in_two_passes(
    run: int, pictures: Sequence[Picture], passed: Callable[[Iterable[Part]], Iterator[list[list[Answer]]]]
) -> list[list[Answer]]:
    """Answer the samples about some pictures as a run that zooms does: one answer per sample.

    Args:
        run: its number.
        pictures: that it fits.
        passed: answers parts, for each of their runs.
    """
    policies = [_policy(picture.runs[run]) for picture in pictures]
    look = [
        Part.whole(picture, {run: looking(policy)})
        for picture, policy in zip(pictures, policies, strict=True)
    ]
    looked = [answers for [answers] in passed(look)]
    boxes = [
        shown(answers, policy, picture.grid, picture.boxes)
        for answers, policy, picture in zip(looked, policies, pictures, strict=True)
    ]
    seen = passed(
        [
            Part(picture, {run: seeing(policy)}, list(of_picture), list(of_picture.values()))
            for picture, policy, of_picture in zip(pictures, policies, boxes, strict=True)
            if of_picture
        ]
    )
    return [
        merged(answers, dict(zip(of_picture, next(seen)[0], strict=True)) if of_picture else {})
        for answers, of_picture in zip(looked, boxes, strict=True)
    ]


def looking(policy: Policy) -> Run:
    """The first pass, which looks and changes nothing.

    Args:
        policy: whose first scanned layer, threshold, saliency, selector, patches and positions count.
    """
    first = sorted(policy.layers)[0]
    return Run(Policy.never([first], patches=policy.patches, saliency=policy.saliency))


def shown(
    answers: Sequence[Answer],
    policy: Policy,
    grid: Grid,
    boxes: Sequence[Box | None],
) -> dict[int, Box]:
    """What the second pass shows: number of a question -> box; the first pass's answer is kept where it looks at no one region.

    Args:
        answers: of the first pass.
        grid: of the picture's base view.
        boxes: of what each question is about, for `selector="box"`; None: about no single place, which is not zoomed at.
    """
    above, _ = policy.thresholds
    found: dict[int, Box] = {}
    for number, answer in enumerate(answers):
        [event] = answer.events
        # cells, not pixels: a picture may have fewer of these
        hottest = SeenBox.of_cells(region_box(event.region, policy.patches, grid), grid)
        box = boxes[number] if policy.selector == "box" else hottest
        if event.ratio > above and box is not None:
            found[number] = box
    return found


def seeing(policy: Policy) -> Run:
    """The second pass, which shows a box's crop behind the picture."""
    return Run(
        Policy([0], 0, 0, patches=policy.patches, source="encode", selector="box", positions=policy.positions)
    )


def merged(looked: Sequence[Answer], seen: Mapping[int, Answer]) -> list[Answer]:
    """One answer per question. Its one event is that of the first pass: "expand" where a second followed, else "keep".

    Args:
        looked: answers of the first pass.
        seen: number of a question -> answer of the second.
    """
    answers = list(looked)
    for number, answer in seen.items():
        [before], [zoomed] = looked[number].events, answer.events
        event = replace(before, region=zoomed.region, action="expand")
        answers[number] = answer._replace(events=(event,))
    return answers


def _policy(run: Run) -> Policy:
    assert run.policy is not None, "the backbone as it is does not zoom"
    return run.policy
