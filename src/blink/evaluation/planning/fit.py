"""Whether a backbone takes the questions that it is asked: their texts, boxes, pictures, and answers of their length.

Of the backbone only config and processor are read: no weights.
"""

from collections.abc import Callable, Mapping, Sequence

from blink.bench import Sample
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.questions import Questions, Size
from blink.inference.boxes import seen_box
from blink.inference.policy import Policy
from blink.model.backbone import Backbone
from blink.model.image_inputs import PictureShapes
from blink.model.prompts import Template
from blink.runs.values import UserError


def check_questions(
    questions: Questions, checkpoint: Checkpoint, template: Template, policy: Policy | None = None
) -> list[str]:
    """Check that a backbone takes a benchmark's questions, and answers of the length that it asks for.

    Args:
        policy: that answers them; None: none that goes by boxes.

    Returns:
        A warning of boxes that the backbone sees nothing of, if the policy goes by boxes.

    Raises:
        UserError: as `check_boxes` and `check_taken` do.
    """
    benchmark, samples, sizes = questions.benchmark, questions.samples, questions.sizes
    unseen = check_boxes(policy, benchmark.name, samples, sizes, checkpoint)
    check_taken(samples, sizes, checkpoint, template, {"bench.max_new_tokens": benchmark.max_new_tokens})
    return unseen


def check_taken(
    samples: Sequence[Sample],
    sizes: Mapping[str, Size],
    checkpoint: Checkpoint,
    template: Template,
    answers: Mapping[str, int] | None = None,
) -> None:
    """Check that a backbone takes the samples: their questions, their pictures as far as their sizes are known, their answers.

    Args:
        answers: key -> how many tokens an answer may have by it.

    Raises:
        UserError: a question holds what stands for a picture, the processor refuses a picture, or an answer may get longer
            than the backbone's context; names it.
    """
    backbone = checkpoint.outline()
    check_context(backbone, answers or {})
    for sample in samples:
        for token in template.reserved:
            if token in sample.question:
                raise UserError(
                    f"question {sample.id} holds {token!r}, which stands for a picture: take it out; the template "
                    "places the one picture itself"
                )
    check_sizes(samples, sizes, PictureShapes(backbone))


def context_length(backbone: Backbone) -> int:
    """How many tokens a backbone's context has."""
    return int(backbone.model.config.get_text_config().max_position_embeddings)


def check_context(backbone: Backbone, answers: Mapping[str, int]) -> None:
    """Raise UserError where an answer may get longer than a backbone's context: its memory would be taken for nothing.

    Args:
        answers: key -> how many tokens an answer may have by it.
    """
    context = context_length(backbone)
    for key, tokens in answers.items():
        if tokens > context:
            raise UserError(f"{key}={tokens}: the backbone's context has {context:,} tokens; give fewer")


def check_boxes(
    policy: Policy | None,
    benchmark: str,
    samples: Sequence[Sample],
    sizes: Mapping[str, Size],
    checkpoint: Checkpoint,
) -> list[str]:
    """Return a warning of boxes that the backbone sees nothing of, where a policy goes by boxes.

    Args:
        sizes: of the samples' pictures; those without are seen whole, as scenes are.

    Raises:
        ValueError: no question has a box.
    """
    if policy is None or policy.selector != "box":
        return []
    boxes = [(sample, sample.details.get("box")) for sample in samples]
    boxed = [(sample, box) for sample, box in boxes if box is not None]
    if not boxed:
        raise UserError(
            f"selector=box goes by the box of what a question is about, and none of the {len(samples):,} of {benchmark} has "
            "one: take data=scenes, bench=questions with boxes, or selector=saliency"
        )
    views = checkpoint.views()
    unseen = [
        sample.id
        for sample, box in boxed
        if sample.image in sizes and seen_box(box, views.window(sizes[sample.image])) is None
    ]
    if not unseen:
        return []
    return [
        f"selector=box: {len(unseen):,} of {len(boxed):,} boxes lie outside what the backbone sees of their pictures, such as "
        f"that of {unseen[0]}; nothing is expanded for these"
    ]


def check_sizes(
    samples: Sequence[Sample], sizes: Mapping[str, Size], shape: Callable[[Size], object]
) -> None:
    """Raise unless a processor takes pictures of all sizes. Those that stand out are tried; all of them if one is refused.

    Args:
        sizes: of the samples' pictures.
        shape: what the processor makes of a picture of one size; raises ValueError where it refuses that.

    Raises:
        UserError: it refuses one; names the first question about such a picture, the size, and how many there are.
    """
    every = sorted({sizes[sample.image] for sample in samples if sample.image in sizes})
    utmost = {pick(every, key=key) for pick in (min, max) for key in (_elongation, min, max) if every}
    if all(_refusal(shape, size) is None for size in utmost):
        return
    reasons = {size: _refusal(shape, size) for size in every}
    refused = [sample for sample in samples if reasons[sizes[sample.image]]]
    width, height = sizes[refused[0].image]
    raise UserError(
        f"question {refused[0].id}: the backbone's processor takes no picture of {width} x {height} pixels "
        f"({reasons[width, height]}), and {len(refused):,} of {len(samples):,} questions are about such; leave them out, "
        "or pad or cut their pictures"
    )


def _elongation(size: Size) -> float:
    """Width over height."""
    return size[0] / size[1]


def _refusal(shape: Callable[[Size], object], size: Size) -> str | None:
    """Why a processor takes no picture of a size; None if it does."""
    try:
        shape(size)
    except ValueError as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None
