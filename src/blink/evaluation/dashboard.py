"""What an evaluation logs to W&B, TensorBoard or CSV: progress, then scores, cost, events per layer, ratios, predictions.

All but the progress follows from a finished run's files, so it can be logged at any time, without a model.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blink.bench.base import Row, Sample
from blink.evaluation.result import Result
from blink.evaluation.scores import expanded_share
from blink.model.families import Grid
from blink.model.token_sr import region_frame
from blink.model.views import ViewMaker
from blink.runs.boards.board import Axis, Board
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
    """Logs the progress of an evaluation, at most every `seconds` seconds.

    Args:
        board: where it is logged.
        seconds: between two reports at least.
    """

    def __init__(self, board: Board, seconds: float = _PROGRESS_SECONDS) -> None:
        self.board = board
        self.seconds = seconds
        self._last: tuple[float, int] | None = None
        board.axis(ANSWERED, "progress")

    def __call__(self, rows: Sequence[Row]) -> None:
        """Report if it is time.

        Args:
            rows: all that are answered, those of earlier processes included.
        """
        with self.board.spared():
            self._report(rows)

    def _report(self, rows: Sequence[Row]) -> None:
        now = time.monotonic()
        if self._last is None:
            self._last = (now, len(rows))
            return
        before, answered = self._last
        if now - before < self.seconds:
            return
        self._last = (now, len(rows))
        marks = [row["correct"] for row in rows if row["correct"] is not None]
        self.board.numbers(
            {
                "progress/correct_percent": 100 * sum(marks) / len(marks) if marks else None,
                "progress/expanded_percent": 100 * expanded_share(rows),
                "progress/questions_per_second": (len(rows) - answered) / (now - before),
            },
            Axis(ANSWERED, len(rows)),
        )


def log_result(
    board: Board,
    result: Result,
    samples: Sequence[Sample],
    rows: Sequence[Row],
    views: ViewMaker,
) -> None:
    """Log scores, costs, events and some predictions of a finished run.

    Args:
        result: the content of its `scores.json`.
        samples, rows: of the run, in the same order.
        views: what the backbone saw of a picture.
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
            _predictions(samples, rows, patches, views, board.table_rows, board.table_pixels),
        )


def scores(result: Result) -> dict[str, float | None]:
    """All metrics; the main one under a name that all benchmarks share, too; intervals of the headline metrics; shares of
    responses that are empty, from which the scorer reads nothing, and that came without Blink."""
    found: dict[str, float | None] = {f"scores/{name}": value for name, value in result.metrics.items()}
    for name in result.headline:
        low, high = result.intervals[name] or (None, None)
        found |= {f"intervals/{name}_low": low, f"intervals/{name}_high": high}
    main = next(iter(result.headline), None)
    if main is not None:
        found["scores/main"] = result.metrics[main]
    unread = {"empty": result.empty, "unread": result.unread, "without_blink": result.without_blink}
    shares = {name: None if count is None else 100 * count / result.n for name, count in unread.items()}
    return found | {
        "scores/expanded_percent": result.expanded_percent,
        **{f"scores/{name}_percent": share for name, share in shares.items()},
    }


def cost(result: Result, rows: Sequence[Row]) -> dict[str, float | None]:
    """FLOPs, tokens, time and memory."""
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
    """Layer -> percentages of questions that expanded, kept and dropped there, and that run the layer with an extension; and
    the mean saliency ratio."""
    sums: dict[int, dict[str, float]] = {}
    for row in rows:
        alive = False
        for event in row["events"]:
            alive = event["action"] == "expand" or (alive and event["action"] == "keep")
            counts = sums.setdefault(
                event["layer"], dict.fromkeys(("expand", "keep", "drop", "alive", "ratio"), 0.0)
            )
            counts[event["action"]] += 1
            counts["alive"] += alive
            counts["ratio"] += event["ratio"]
    return {
        layer: {
            f"events/{name}_percent": 100 * counts[name] / len(rows)
            for name in ("expand", "keep", "drop", "alive")
        }
        | {"events/mean_ratio": counts["ratio"] / (counts["expand"] + counts["keep"] + counts["drop"])}
        for layer, counts in sorted(sums.items())
    }


def chosen(rows: Sequence[Row], most: int) -> list[int]:
    """Indices of rows to show: all if there are at most `most`, else evenly spread ones, half of them wrong answers if
    there are that many."""
    if len(rows) <= most:
        return list(range(len(rows)))
    wrong = [i for i, row in enumerate(rows) if row["correct"] is False]
    others = [i for i, row in enumerate(rows) if row["correct"] is not False]
    of_wrong = min(len(wrong), max(most // 2, most - len(others)))
    return sorted([*_spread(wrong, of_wrong), *_spread(others, most - of_wrong)])


def thumbnail(
    picture: Image.Image,
    row_events: Sequence[Mapping[str, Any]],
    patches: int,
    pixels: int,
    grid: Grid | None = None,
) -> Image.Image:
    """The picture made small, the regions that were expanded outlined, with their layers.

    Args:
        picture: the part that the backbone saw.
        pixels: of its longer side at most.
        grid: (H, W) of the visual tokens; None draws equal regions.
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
        left, top, width, height = region_frame(region, patches, grid, small.size)
        box = (left, top, max(left, left + width - 1), max(top, top + height - 1))
        pen.rectangle(box, outline="white", width=4)
        pen.rectangle(box, outline=VERMILLION, width=2)
        text = ",".join(map(str, layers))
        pen.text((left + 5, top + 3), text, fill=VERMILLION, font=font, stroke_width=2, stroke_fill="white")
    return small


def _predictions(
    samples: Sequence[Sample],
    rows: Sequence[Row],
    patches: int,
    views: ViewMaker,
    most: int,
    pixels: int,
) -> Iterator[list[Any]]:
    """Rows of the table; a picture that several of them ask about is read once."""
    for _, indices in groupby(chosen(rows, most), key=lambda i: samples[i].image):
        picture: Image.Image | None = None
        grid: Grid | None = None
        for i in indices:
            if picture is None:
                image = samples[i].load_image()
                picture, grid = views.seen(image), views.grid(image.size)
            row = rows[i]
            found = row["events"]
            expanded = [event["layer"] for event in found if event["action"] == "expand"]
            yield [
                row["id"],
                thumbnail(picture, found, patches, pixels, grid),
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


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """`count` of the indices, evenly spread, the first and the last among them."""
    return [indices[int(at)] for at in np.linspace(0, len(indices) - 1, count).round()] if count else []
