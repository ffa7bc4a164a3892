"""What an evaluation tells its board: how far it is, then scores, cost, events per layer, ratios, and some predictions.

All but the progress follows from a finished run's files, so it can be told at any time, without a model.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blink.bench.base import Row, Sample
from blink.evaluation.scores import Result, expanded_share
from blink.runs.board import Axis, Board
from blink.runs.style import VERMILLION

ANSWERED, LAYER = "progress/answered", "layer"
"""Axes: questions answered so far, and the layer of an event."""

_PROGRESS_SECONDS = 10
"""Between two reports of the progress."""

_BINS = 50
"""Of a histogram of ratios in [0, 1]."""

_COLUMNS = (
    "id",
    "picture",
    "question",
    "response",
    "label",
    "correct",
    "expanded at",
    "events",
    "highest ratio",
    "tokens",
    "GFLOP",
)


class Progress:
    """Tells from time to time how far an evaluation is.

    Args:
        board: where to.
        seconds: between two reports at least.
    """

    def __init__(self, board: Board, seconds: float = _PROGRESS_SECONDS) -> None:
        self.board = board
        self.seconds = seconds
        self._told: tuple[float, int] | None = None
        board.axis(ANSWERED, "progress")

    def __call__(self, rows: Sequence[Row]) -> None:
        """Report if it is time.

        Args:
            rows: all that are answered, those of earlier processes included.
        """
        now = time.monotonic()
        if self._told is None:
            self._told = (now, len(rows))
            return
        before, answered = self._told
        if now - before < self.seconds:
            return
        self._told = (now, len(rows))
        marks = [row["correct"] for row in rows if row["correct"] is not None]
        self.board.numbers(
            {
                "progress/correct_percent": 100 * sum(marks) / len(marks) if marks else None,
                "progress/expanded_percent": 100 * expanded_share(rows),
                "progress/questions_per_second": (len(rows) - answered) / (now - before),
            },
            Axis(ANSWERED, len(rows)),
        )


def tell_result(
    board: Board,
    result: Result,
    samples: Sequence[Sample],
    rows: Sequence[Row],
    seen: Callable[[Image.Image], Image.Image],
) -> None:
    """Tell what a finished run says.

    Args:
        result: the content of its `scores.json`.
        samples, rows: of the run, in the same order.
        seen: from a picture to the part of it that the backbone saw.
    """
    board.numbers(scores(result))
    board.numbers(cost(result, rows))
    board.axis(LAYER, "events", "ratios")
    ratios: dict[int, list[float]] = {}
    for row in rows:
        for event in row["events"]:
            ratios.setdefault(event["layer"], []).append(event["ratio"])
    edges = np.linspace(0, 1, _BINS + 1).tolist()
    for layer, values in events(rows).items():
        board.numbers(values, Axis(LAYER, layer))
        board.histogram("ratios/at_layer", ratios[layer], edges, Axis(LAYER, layer))
    if ratios:
        board.histogram("ratios/all_layers", [ratio for values in ratios.values() for ratio in values], edges)
    if board.shows_tables and board.table_rows:
        patches = 2 if result.policy is None else result.policy.patches
        board.table(
            "predictions/table",
            _COLUMNS,
            _predictions(samples, rows, patches, seen, board.table_rows, board.table_pixels),
        )


def scores(result: Result) -> dict[str, float | None]:
    """All metrics, the main one under a name that all benchmarks share, with intervals for those that tables show."""
    found: dict[str, float | None] = {f"scores/{name}": value for name, value in result.metrics.items()}
    for name in result.headline:
        low, high = result.intervals[name] or (None, None)
        found |= {f"intervals/{name}_low": low, f"intervals/{name}_high": high}
    main = next(iter(result.headline), None)
    if main is not None:
        found["scores/main"] = result.metrics[main]
    return found | {"scores/expanded_percent": result.expanded_percent}


def cost(result: Result, rows: Sequence[Row]) -> dict[str, float | None]:
    """What the answers took."""
    memory = result.peak_memory_mb
    return {
        "cost/gflops_per_question": result.gflops_per_question,
        "cost/answer_tokens_per_question": sum(row["tokens"] for row in rows) / len(rows),
        "cost/seconds": result.seconds,
        "cost/questions_per_second": result.questions_per_second,
        "cost/peak_memory_gb": None if memory is None else memory / 1024,
        "cost/questions": result.n,
    }


def events(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Layer -> in percent of the questions what was done there, and where an extension lives behind it; mean ratio."""
    sums: dict[int, dict[str, float]] = {}
    for row in rows:
        alive = False
        for event in row["events"]:
            alive = event["action"] == "expand" or (alive and event["action"] == "keep")
            at = sums.setdefault(
                event["layer"], dict.fromkeys(("expand", "keep", "drop", "alive", "ratio"), 0.0)
            )
            at[event["action"]] += 1
            at["alive"] += alive
            at["ratio"] += event["ratio"]
    return {
        layer: {
            f"events/{name}_percent": 100 * at[name] / len(rows)
            for name in ("expand", "keep", "drop", "alive")
        }
        | {"events/mean_ratio": at["ratio"] / (at["expand"] + at["keep"] + at["drop"])}
        for layer, at in sorted(sums.items())
    }


def chosen(rows: Sequence[Row], most: int) -> list[int]:
    """Places of rows to show: all if there are few, else half of them wrong if so many are, each half evenly spread."""
    if len(rows) <= most:
        return list(range(len(rows)))
    wrong = [place for place, row in enumerate(rows) if row["correct"] is False]
    others = [place for place, row in enumerate(rows) if row["correct"] is not False]
    of_wrong = min(len(wrong), max(most // 2, most - len(others)))
    return sorted([*_spread(wrong, of_wrong), *_spread(others, most - of_wrong)])


def thumbnail(
    picture: Image.Image, row_events: Sequence[Mapping[str, Any]], patches: int, pixels: int
) -> Image.Image:
    """The picture made small, the regions that were expanded outlined, with their layers.

    Args:
        picture: the square that the backbone saw.
        pixels: of its longer side at most.
    """
    small = picture.convert("RGB")
    small.thumbnail((pixels, pixels))
    pen = ImageDraw.Draw(small)
    font = ImageFont.load_default(size=max(9, pixels // 14))
    by_region: dict[int, list[int]] = {}
    for event in row_events:
        if event["action"] == "expand":
            by_region.setdefault(event["region"], []).append(event["layer"])
    for region, layers in by_region.items():
        y, x = divmod(region, patches)
        left, top = x * small.width / patches, y * small.height / patches
        box = (left, top, left + small.width / patches - 1, top + small.height / patches - 1)
        pen.rectangle(box, outline="white", width=4)
        pen.rectangle(box, outline=VERMILLION, width=2)
        text = ",".join(map(str, layers))
        place = (left + 5, top + 3)
        pen.text(place, text, fill=VERMILLION, font=font, stroke_width=2, stroke_fill="white")
    return small


def _predictions(
    samples: Sequence[Sample],
    rows: Sequence[Row],
    patches: int,
    seen: Callable[[Image.Image], Image.Image],
    most: int,
    pixels: int,
) -> Iterator[list[Any]]:
    """Rows of the table; a picture that several of them ask about is read once."""
    for _, places in groupby(chosen(rows, most), key=lambda place: samples[place].image):
        picture: Image.Image | None = None
        for place in places:
            picture = picture or seen(samples[place].load_image())
            row = rows[place]
            found = row["events"]
            expanded = [event["layer"] for event in found if event["action"] == "expand"]
            yield [
                row["id"],
                thumbnail(picture, found, patches, pixels),
                row["question"],
                row["response"],
                str(row["label"]),
                {True: "right", False: "wrong", None: "not scored"}[row["correct"]],
                " ".join(map(str, expanded)),
                ", ".join(f"{event['layer']} {event['action']} {event['ratio']:.2f}" for event in found),
                max(map(itemgetter("ratio"), found), default=None),
                row["tokens"],
                None if row.get("flops") is None else round(row["flops"] / 1e9, 3),
            ]


def _spread(places: Sequence[int], count: int) -> list[int]:
    return [places[int(at)] for at in np.linspace(0, len(places) - 1, count).round()] if count else []
