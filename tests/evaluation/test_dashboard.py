"""What an evaluation tells its board, from runs written by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blink.evaluation.dashboard import Progress, chosen, events, log_result, thumbnail
from blink.model.views import ViewMaker
from blink.runs.loggers import wandb_logger
from blink.runs.style import VERMILLION
from tests import models
from tests.finished_runs import Rule, finish, read_rows, samples
from tests.told_runs import ToldRun


def test_a_finished_run_as_w_and_b_gets_it(tmp_path: Path, told_runs: list[ToldRun]) -> None:
    """Would catch shares over events instead of questions, ratios of one layer counted twice, unbounded tables and
    thumbnails of the wrong question.

    Pictures 0 and 2 of four expand at layer 3; every question scans layers 2 and 3.
    """
    asked = [replace(sample, open_image=lambda: Image.new("RGB", (80, 80))) for sample in samples(4)]
    result = finish(tmp_path, Rule(wrong=[asked[0].id, asked[9].id]), asked)
    rows = read_rows(tmp_path)
    board = wandb_logger(str(tmp_path), "evaluation", mode="offline", table_rows=6, table_pixels=40)
    progress = Progress(board, seconds=0)
    progress(rows[:6])
    progress(rows[:12])
    views = ViewMaker(models.processor(models.llava(grid=6, layers=1)), grid=(6, 6))
    low, _ = result.intervals["f1"] or ()
    log_result(board, result, asked, rows, views)
    board.close()

    [run] = told_runs
    assert {
        "events/*": "layer",
        "ratios/*": "layer",
        "progress/*": "progress/answered",
    }.items() <= run.axes.items()
    assert run.column("progress/answered") == [12]
    assert run.column("progress/correct_percent") == [pytest.approx(100 * 10 / 12)]
    assert run.column("scores/f1") == [pytest.approx(result.metrics["f1"])]
    assert run.column("scores/main") == run.column("scores/f1")
    assert run.column("intervals/f1_low") == [pytest.approx(low)]
    assert run.column("scores/expanded_percent") == [50]
    assert run.column("scores/empty_percent") == run.column("scores/unread_percent") == [0]
    assert run.column("scores/without_blink_percent") == [0]
    assert run.column("cost/gflops_per_question") == [pytest.approx(1e-6)]
    assert run.column("cost/answer_tokens_per_question") == [2]
    assert [
        (row["layer"], row["events/drop_percent"], row["events/expand_percent"])
        for row in run.history
        if "events/drop_percent" in row
    ] == [
        (2, 100, 0),
        (3, 0, 50),
    ]
    by_layer = [np.asarray(shown.histogram) for shown in run.column("ratios/at_layer")]
    assert [values.sum() for values in by_layer] == [24, 24]
    assert by_layer[1].argmax() == 6  # 0.123 among fiftieths
    [overall] = run.column("ratios/all_layers")
    assert sum(overall.histogram) == 48
    table = run.table("predictions/table")
    column = table.columns.index
    shown = [(row[column("id")], row[column("correct")], row[column("expanded at")]) for row in table.data]
    assert len(shown) == 6
    assert {id_ for id_, correct, _ in shown if correct == "wrong"} == {asked[0].id, asked[9].id}
    assert {id_.split("/")[1][0] for id_, _, expanded in shown if expanded == "3"} <= {"0", "2"}
    assert {row[column("picture")].image.size for row in table.data} == {(40, 40)}


def test_an_extension_lives_until_it_is_dropped() -> None:
    """Would catch layers that keep an extension counted as without one, or layers before its birth as with one."""
    actions = {2: "keep", 3: "expand", 4: "keep", 5: "drop", 6: "keep"}
    row = {
        "events": [{"layer": at, "ratio": 0.5, "region": 0, "action": what} for at, what in actions.items()]
    }
    quiet = {"events": [event | {"action": "keep"} for event in row["events"]]}
    found = events([row, quiet])
    assert [found[layer]["events/alive_percent"] for layer in actions] == [0, 50, 50, 0, 0]
    assert [found[layer]["events/keep_percent"] for layer in actions] == [100, 50, 100, 50, 100]
    assert {values["events/mean_ratio"] for values in found.values()} == {0.5}


def test_rows_to_show_are_bounded_and_half_wrong() -> None:
    """Would catch a table of right answers alone, a row shown twice, or more rows than asked for."""
    few_wrong = [{"correct": place not in (3, 50)} for place in range(100)]
    assert {3, 50} <= set(chosen(few_wrong, 10))
    half = chosen([{"correct": place % 5 == 0} for place in range(100)], 10)
    assert sum(place % 5 != 0 for place in half) == 5
    assert chosen([{"correct": None}] * 3, 10) == [0, 1, 2]
    most_wrong = [{"correct": place == 7} for place in range(100)]
    for rows in (few_wrong, most_wrong, [{"correct": True}] * 100):
        assert len(set(chosen(rows, 10))) == 10
    assert chosen(few_wrong, 0) == []


def test_a_thumbnail_shows_the_region_that_was_expanded() -> None:
    """Would catch rows and columns of regions mixed up, and outlines of regions that were only kept."""
    picture = Image.new("RGB", (200, 200), "black")
    found = [
        {"layer": 8, "ratio": 0.6, "region": 2, "action": "keep"},
        {"layer": 9, "ratio": 0.7, "region": 1, "action": "expand"},
    ]
    small = thumbnail(picture, found, 2, 100)
    assert small.size == (100, 100)
    assert picture.getpixel((150, 50)) == (0, 0, 0)  # the picture itself is left as it was
    colour = tuple(int(VERMILLION[at : at + 2], 16) for at in (1, 3, 5))
    assert small.getpixel((99, 25)) == colour  # upper right
    assert small.getpixel((0, 75)) == (0, 0, 0)  # lower left
    uneven = thumbnail(
        picture, found, 2, 100, (3, 5)
    )  # of 3 rows one lies above the cut, of 5 columns two to its left
    assert uneven.getpixel((99, 20)) == uneven.getpixel((41, 20)) == colour
    assert uneven.getpixel((99, 50)) == (0, 0, 0)
