"""The look that figures share, and the files that they are written to."""

import csv
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from blink.runs.style import Drawn, look, plain, save, series_styles


def test_text_is_no_formula_and_has_glyphs(tmp_path: Path) -> None:
    """Would catch a question with two dollars that is set as mathematics, and warnings for missing glyphs."""
    with look():
        figure = Figure()
        figure.suptitle(plain("costs $5 or $7_x$? \U0001f9ff 图 \x07"))
        figure.savefig(tmp_path / "a.png")
    assert plain("a$b") == r"a\$b"
    assert "\U0001f9ff" not in plain("\U0001f9ff")


def test_text_is_wrapped_and_cut() -> None:
    """Would catch a long question that runs over its neighbours."""
    assert plain("one two three four five", 9, 2) == "one two\nthree ..."
    assert plain("one two", 9, 2) == "one two"


def test_everything_is_written(tmp_path: Path) -> None:
    """Would catch numbers lost for records of different keys, and nan, which JSON has not."""
    drawn = Drawn(
        {"one": Figure(), "two": Figure()},
        [{"a": 1}, {"a": 2, "b": 0.5}],
        {"maps": {3: np.array([[1.0, float("nan")]])}, "n": 2},
    )
    with look():
        files = save(drawn, "name", tmp_path)
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())
    assert {"one.png", "one.pdf", "two.png", "two.pdf", "name.csv", "name.json"} == set(files)
    with (tmp_path / "name.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": ""}, {"a": "2", "b": "0.5"}]
    written = json.loads((tmp_path / "name.json").read_text())
    assert written["maps"] == {"3": [[1.0, None]]}
    assert written["table"][1] == {"a": 2, "b": 0.5}


def test_series_are_told_apart() -> None:
    """Would catch a series without a style, or with that of another."""
    assert len(set(series_styles(140))) == 140
    assert ":" not in {style.dash for style in series_styles(140)}
