"""A picture as it is asked about, and parts of its questions and runs that are answered in one pass."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from PIL import Image

from blink.bench import Sample
from blink.evaluation.answering.predict import Asked
from blink.inference.boxes import Window, seen_box
from blink.inference.run import Run
from blink.model.families import Grid

_NAMED = 40
"""Questions under way that an error names at most."""


Box = Sequence[Any]
"""Left, top, right and bottom in pixels of a picture, or a `SeenBox`."""


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        samples: about it.
        image: the picture.
        inputs: what the processor makes of it and the first sample's prompt; None where each question is asked alone.
        grid: (H, W) of the base view's visual tokens.
        runs: number of each that is to answer -> the run that does: the backbone as it is where that one does not fit.
        without_blink: number of each that does not fit -> why, in words.
        boxes: of what each sample asks about; None where it has none, or the backbone sees nothing of it.
    """

    samples: Sequence[Sample]
    image: Image.Image
    inputs: Any
    grid: Grid
    runs: Mapping[int, Run]
    without_blink: Mapping[int, str]
    boxes: Sequence[Box | None]


class Part(NamedTuple):
    """Samples about a picture that are answered in one pass.

    Attributes:
        runs: number of each -> the run itself.
        numbers: which samples.
        boxes: that runs select by, one for each of these.
    """

    picture: Picture
    runs: Mapping[int, Run]
    numbers: Sequence[int]
    boxes: Sequence[Box | None]

    @classmethod
    def whole(cls, picture: Picture, runs: Mapping[int, Run]) -> Self:
        """All samples about a picture."""
        return cls(picture, runs, range(len(picture.samples)), picture.boxes)


def fitting(run: Run, grid: Grid) -> tuple[Run, str | None]:
    """How a run answers about a picture whose base view has this grid: without Blink where it is too narrow for the regions.

    Returns:
        The run, or that of the backbone as it is; and why it is not the run itself, in words.
    """
    if run.policy is None or run.policy.patches <= min(grid):
        return run, None
    (H, W), p = grid, run.policy.patches
    return Run(), f"the {H} x {W} grid of visual tokens cannot be split into {p} x {p} regions"


def seen_or_none(box: Sequence[float] | None, window: Window) -> Sequence[float] | None:
    """A box, or None where the backbone sees nothing of it through a window."""
    return box if box is not None and seen_box(box, window) is not None else None


@contextmanager
def naming(under_way: Iterable[Asked]) -> Iterator[None]:
    """Context of answering: a note at any error says which questions were under way.

    Args:
        under_way: pictures; may change until there is an error.
    """
    try:
        yield
    except Exception as error:
        ids = [sample.id for picture in under_way for sample in picture.samples]
        if ids:
            more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
            error.add_note(f"while answering {', '.join(ids[:_NAMED])}{more}")
        raise
