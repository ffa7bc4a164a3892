"""What a caller says of the rows of a prompt beside their tokens: names, where they end, original pictures, boxes.

One entry per row; rows that beams repeat count once.

Axes: B rows, S columns of the input, C channels, h x w pixels.
"""

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from blink.inference.boxes import SeenBox, seen_box
from blink.inference.crops import Crops, OriginalPicture, ProcessedPicture, crop_prefix
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.inference.spans import Spans
from blink.model.backbone import Backbone
from blink.model.image_inputs import sample_key
from blink.model.views import ViewMaker
from blink.runs.values import UserError
from blink.runs.values import box as checked_box

Box = tuple[float, float, float, float] | SeenBox

NO_PIXELS = "the pixels are not among the inputs (mm_encoder_outputs are features)"


@dataclass(frozen=True)
class Given:
    """What was said so far; None where nothing was.

    Attributes:
        keys: names of the samples.
        ends: column of each prompt's last token, padding included.
        pictures: as they were before the processor.
        boxes: of what the questions are about, in pixels of those, or as the backbone sees them; None for one about no
            single place.
        sizes: (width, height) of the pictures, where these are not given.
        processor: of the backbone, which tells what of a picture is seen.
    """

    keys: list[str] | None = None
    ends: list[int] | None = None
    pictures: list[Image.Image] | None = None
    boxes: list[Box | None] | None = None
    sizes: list[tuple[int, int]] | None = None
    processor: Any = None

    def prompt_ends(self, rows: int) -> list[int] | None:
        """The columns at which prompts end; ValueError unless there are as many as rows."""
        if self.ends is not None:
            _check_count("prompt_end", "columns", self.ends, rows)
        return self.ends

    def sample_keys(
        self, policy: Policy, rows: Sequence[Sequence[int]], digests: Sequence[str] | None
    ) -> list[str]:
        """Names of the prompts: the caller's, or hashes of unpadded ids and pixels; empty if the policy draws nothing.

        Args:
            rows: their ids.
            digests: of their pictures, or None.
        """
        if self.keys is not None:
            _check_count("sample_keys", "samples", self.keys, len(rows))
            return self.keys
        if not policy.draws:
            return [""] * len(rows)
        if digests is None:
            raise UserError(
                f"a random selector or schedule needs a key per sample, and {NO_PIXELS}: give keys with "
                "`with handle.sample_keys([...])`"
            )
        return [sample_key(torch.tensor(row), digest) for row, digest in zip(rows, digests, strict=True)]

    def seen_boxes(self, backbone: Backbone, policy: Policy, rows: int) -> list[SeenBox | None] | None:
        """The boxes as the backbone sees them; None if the policy does not select by them."""
        if policy.selector != "box":
            return None
        if self.boxes is None:
            raise UserError(
                "selector='box' needs the box of what each question is about: give them with `with handle.boxes([[left, top, "
                "right, bottom], ...], sizes=[(width, height), ...]):`, in pixels of the original pictures (engine.answer "
                "takes boxes=)"
            )
        _check_count("boxes", "boxes", self.boxes, rows)
        sizes = self.sizes or [picture.size for picture in self.pictures or ()]
        if not sizes:
            raise UserError(
                "boxes are in pixels of the original pictures, whose sizes are not known: give them by sizes=[(width, "
                "height), ...], or the pictures with `with handle.pictures([...])`"
            )
        _check_count("boxes", "sizes of pictures", sizes, rows)
        maker = view_maker(backbone, self.processor)
        return [
            box
            if box is None or isinstance(box, SeenBox)
            else box_in_view(box, size, maker, f"row {row} of boxes")
            for row, (box, size) in enumerate(zip(self.boxes, sizes, strict=True))
        ]

    def crops(
        self,
        backbone: Backbone,
        run: Run,
        ids_BS: Tensor,
        spans: Spans,
        views: Sequence[Tensor] | None,
    ) -> Crops | None:
        """Where regions are cut out; None if the run encodes none.

        Args:
            ids_BS, spans: of the prompts.
            views: pixels of their base views as the vision tower sees them, [C, h, w] each, or None.
        """
        if not run.encodes:
            return None
        prefixes = crop_prefixes(ids_BS, spans, backbone.image_token_id)
        if self.pictures is not None:
            _check_count("pictures", "pictures", self.pictures, len(prefixes))
            maker = view_maker(backbone, self.processor)
            return Crops(backbone, prefixes, [OriginalPicture(picture, maker) for picture in self.pictures])
        if views is None:
            raise UserError(
                f"regions to encode are cut out of the pictures, and {NO_PIXELS}: give the pictures with `with "
                "handle.pictures([...])`"
            )
        return Crops(backbone, prefixes, [ProcessedPicture(backbone, view_Chw) for view_Chw in views])


NOTHING_GIVEN = Given()


class RowFacts:
    """By these a caller says of the rows of each prompt what their tokens do not; each holds inside its `with`."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._given = NOTHING_GIVEN

    @contextmanager
    def sample_keys(self, keys: Sequence[str]) -> Iterator[None]:
        """Inside, name the rows of each prompt, for a random selector or schedule.

        The draws depend on (policy.seed, key, layer). Without keys a hash of the unpadded prompt ids and the
        pixels is taken.
        """
        with self._saying(keys=checked_keys(keys)):
            yield

    @contextmanager
    def prompt_end(self, columns: Sequence[int] | Tensor) -> Iterator[None]:
        """Inside, say where the prompt of each row ends: the column of its last token, padding included.

        What follows in the same forward is an answer: it attends to extensions, and changes neither events nor the
        prompt's logits. Without this, a prompt ends before the first label that counts (not -100) of a forward
        with `labels`, and otherwise at the row's last token.

        Args:
            columns: one per prompt row, counted from 0 in `input_ids`; behind the picture, and not on padding.
        """
        with self._saying(ends=checked_ends(columns)):
            yield

    @contextmanager
    def pictures(self, images: Sequence[Image.Image], processor: Any = None) -> Iterator[None]:
        """Inside, hand over the pictures of each prompt as they were before the processor, for source="encode".

        Without them regions are cut out of the processed pixels, which hold no more detail than the whole picture
        had at the vision tower's resolution.

        Args:
            images: one per prompt row.
            processor: of the model; None: that of the `Backbone` that was attached to.

        Raises:
            ValueError: an entry is no picture, or there is no processor.
        """
        view_maker(self._backbone, processor)
        with self._saying(pictures=checked_pictures(images), **_unless_none(processor=processor)):
            yield

    @contextmanager
    def boxes(
        self,
        boxes: Sequence[Sequence[float] | None],
        sizes: Sequence[tuple[int, int]] | None = None,
        processor: Any = None,
    ) -> Iterator[None]:
        """Inside, say where the thing is that each row's question is about, for selector="box".

        The region acted on is the one that holds most of the box's area within what the model sees; the lowest index
        wins ties.

        Args:
            boxes: left, top, right and bottom in pixels of the original picture, one per prompt row; None for a question
                about no single place, for which nothing is expanded.
            sizes: (width, height) of the original pictures; None: of those given by `pictures`.
            processor: as for `pictures`; it tells how pictures are padded or cropped.

        Raises:
            ValueError: an entry is no box, or there is no processor.
        """
        view_maker(self._backbone, self._given.processor if processor is None else processor)
        said = _unless_none(sizes=None if sizes is None else list(sizes), processor=processor)
        with self._saying(boxes=checked_boxes(boxes), **said):
            yield

    @contextmanager
    def _saying(self, **said: Any) -> Iterator[None]:
        before, self._given = self._given, replace(self._given, **said)
        try:
            yield
        finally:
            self._given = before


def checked_ends(columns: Sequence[int] | Tensor) -> list[int]:
    """Columns as ints, or ValueError."""
    listed = columns.tolist() if isinstance(columns, Tensor) else columns
    try:
        return [operator.index(column) for column in listed]
    except TypeError:
        raise UserError(f"prompt_end={columns!r}: expected a list with a column (int) per row") from None


def checked_keys(keys: Sequence[str]) -> list[str]:
    """Names as texts, or ValueError."""
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise UserError(f"sample_keys={keys!r}: expected a list with a key per row")
    return [str(key) for key in keys]


def checked_pictures(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Pictures of Pillow, or ValueError."""
    listed = list(pictures) if isinstance(pictures, Sequence) else []
    wrong = [type(picture).__name__ for picture in listed if not isinstance(picture, Image.Image)]
    if not listed or wrong:
        got = f"holds {wrong[0]}" if wrong else f"is of type {type(pictures).__name__}"
        raise UserError(
            f"pictures {got}; expected a list with a PIL.Image per row, as they were before the processor"
        )
    return listed


def checked_boxes(
    boxes: Sequence[Sequence[Any] | None],
) -> list[Box | None]:
    """Boxes in pixels, or ValueError; None and each `SeenBox` stay what they are."""
    if isinstance(boxes, str) or not hasattr(boxes, "__iter__"):
        raise UserError(f"boxes={boxes!r}: expected a list with [left, top, right, bottom] per row")
    return [
        box if box is None or isinstance(box, SeenBox) else checked_box(f"row {row} of boxes: box", box)
        for row, box in enumerate(boxes)
    ]


def view_maker(backbone: Backbone, processor: Any = None) -> ViewMaker:
    """What a processor, None: the backbone's own, makes of pictures.

    Raises:
        ValueError: there is none.
    """
    processor = backbone.processor if processor is None else processor
    if processor is None:
        raise UserError(
            "the processor is missing, which tells how the model sees a picture: give it by processor=, or attach to a "
            "Backbone that carries one"
        )
    return ViewMaker(processor, grid=backbone.grid)


def box_in_view(box: Sequence[float], size: tuple[int, int], maker: ViewMaker, where: str) -> SeenBox:
    """A box as the backbone sees it; ValueError, which says `where` it was given, if it sees nothing of it."""
    window = maker.window(size)
    seen = seen_box(box, window)
    if seen is None:
        raise UserError(
            f"{where}: box={list(box)} lies outside what the model sees of a picture of {size[0]} x {size[1]} pixels, which "
            f"is {list(window)} (left, top, right, bottom)"
        )
    return seen


def crop_prefixes(ids_BS: Tensor, spans: Spans, image_token_id: int) -> list[Tensor]:
    """The ids before each row's picture as if it were not split, padding left out."""
    prefixes = []
    columns = zip(spans.visual_starts, spans.base_starts, strict=True)
    for row, (visual, base) in enumerate(columns):
        valid_N = None if spans.valid_BN is None else spans.valid_BN[row]
        padding = 0 if valid_N is None else int(valid_N.int().argmax())
        ids_S = ids_BS[row, padding:]
        prefixes.append(crop_prefix(ids_S, visual - padding, base - padding, image_token_id))
    return prefixes


def _check_count(name: str, what: str, entries: Sequence[Any], rows: int) -> None:
    """Raise ValueError unless there is one entry per row."""
    if len(entries) != rows:
        raise UserError(f"{name} names {len(entries)} {what}, the prompt has {rows} rows; give one per row")


def _unless_none(**said: Any) -> dict[str, Any]:
    """What is not None."""
    return {name: value for name, value in said.items() if value is not None}
