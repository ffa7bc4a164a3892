"""Checks of single values: what passes, what does not, and the sentence that a user reads."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blink.runs import values
from blink.runs.values import UserError, about


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (lambda v: values.whole_number("n", v), 1, 1),
        (lambda v: values.whole_number("n", v, 0), 0, 0),
        (lambda v: values.whole_number("n", v, None), -3, -3),
        (lambda v: values.optional(values.whole_number, "n", v), None, None),
        (lambda v: values.optional(values.whole_number, "n", v, least=4), 4, 4),
        (lambda v: values.number("n", v), -2, -2.0),
        (lambda v: values.number("n", v, above=0), np.float64(0.5), 0.5),
        (lambda v: values.number("n", v, least=0, most=1), 0, 0.0),
        (lambda v: values.number("n", v, least=0, most=1), 1.0, 1.0),
        (lambda v: values.text("t", v), "12", "12"),
        (lambda v: values.path("p", v), "a/b", Path("a/b")),
        (lambda v: values.path("p", v), "~/a", Path.home() / "a"),
        (lambda v: values.paths("p", v), "a", [Path("a")]),
        (lambda v: values.paths("p", v), ["a", Path("~/b")], [Path("a"), Path.home() / "b"]),
        (lambda v: values.flag("f", v), False, False),
        (lambda v: values.choice("c", v, (True, None)), None, None),
        (lambda v: values.choice("c", v, {"a": 1, "b": 2}), "b", "b"),
        (lambda v: values.whole_numbers("k", v), [5, 3, 1], [5, 3, 1]),
    ],
)
def test_what_fits_is_returned(check: Callable[[Any], Any], value: Any, expected: Any) -> None:
    """Would catch a bound that excludes itself, and a value that comes back as another type."""
    found = check(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (lambda v: values.whole_number("limit", v), 0, "limit=0: expected a whole number of at least 1"),
        (lambda v: values.whole_number("n", v), True, "n=True: expected a whole number of at least 1"),
        (lambda v: values.whole_number("n", v), 2.0, "n=2.0: expected a whole number of at least 1"),
        (lambda v: values.whole_number("n", v), "2", "n='2': expected a whole number of at least 1"),
        (lambda v: values.whole_number("n", v), None, "n=None: expected a whole number of at least 1"),
        (
            lambda v: values.whole_number("patches", v, 2, "p of p x p regions"),
            1,
            "patches=1: expected a whole number of at least 2; p of p x p regions",
        ),
        (lambda v: values.whole_number("seed", v, None), "x", "seed='x': expected a whole number"),
        (lambda v: values.number("a.b", v, above=0), 0, "a.b=0: expected a number above 0"),
        (lambda v: values.number("n", v, above=0), math.inf, "n=inf: expected a number above 0"),
        (lambda v: values.number("n", v), math.nan, "n=nan: expected a number"),
        (lambda v: values.number("n", v, least=0), False, "n=False: expected a number of at least 0"),
        (lambda v: values.number("n", v, least=0, most=1), 1.5, "n=1.5: expected a number in [0, 1]"),
        (
            lambda v: values.number("n", v, above=0, most=1),
            2,
            "n=2: expected a number above 0 and of at most 1",
        ),
        (
            lambda v: values.number("n", v, above=0, unit="seconds"),
            "1",
            "n='1': expected a number of seconds above 0",
        ),
        (
            lambda v: values.text("token_sr", v),
            12,
            "token_sr=12: expected a text; put quotes around one that reads as a number",
        ),
        (lambda v: values.text("t", v, hint=""), "", "t='': expected a text"),
        (
            lambda v: values.path("output", v),
            3,
            "output=3: expected a path; put quotes around one that reads as a number",
        ),
        (lambda v: values.path("cache", v, "a folder", ""), [], "cache=[]: expected a folder"),
        (lambda v: values.paths("p", v), ["a", 1], "p=['a', 1]: expected a path, or a list of paths"),
        (lambda v: values.flag("f", v), 1, "f=1: expected true or false"),
        (lambda v: values.choice("c", v, (True, None)), 1, "c=1: expected one of True, None"),
        (lambda v: values.choice("c", v, ("a", "b"), "see it"), "d", "c='d': expected one of a, b; see it"),
        (lambda v: values.choice("c", v, ("a", "b")), ["a"], "c=['a']: expected one of a, b"),
        (
            lambda v: values.whole_numbers("k", v),
            [5, 3.0],
            "k=[5, 3.0]: expected a list of whole numbers, as [5,3,1]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(check: Callable[[Any], Any], value: Any, message: str) -> None:
    """Would catch a bool or nan taken for a number, a bound that is not held, and another wording."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check(value)


def test_a_number_too_large_for_a_float_is_refused() -> None:
    """Would catch an OverflowError, with its traceback, for a slip of the keyboard."""
    with pytest.raises(ValueError, match="expected a number above 0"):
        values.number("n", 10**400, above=0)


@pytest.mark.parametrize(
    ("value", "kind", "fitting"),
    [
        (1, int, True),
        (True, int, False),
        (1.5, int, False),
        (1, float, True),
        (math.nan, float, True),
        ("1", float, False),
        (None, str | None, True),
        ([1, 2], Sequence[int], True),
        ("ab", Sequence[str], False),
        ([1, None], Sequence[int], False),
        ({"a": [1.5, None]}, Mapping[str, Sequence[float | None] | None], True),
        ({"a": "b"}, Mapping[str, Mapping[str, int]], False),
        ([], Mapping[str, int], False),
        (object(), Any, True),
        (..., str | None, False),
    ],
)
def test_types_of_values_from_files(value: object, kind: Any, fitting: bool) -> None:
    """Would catch a damaged file whose values have another type and are taken all the same."""
    assert values.fits(value, kind) is fitting


def test_mistakes_about_a_file_name_it_once() -> None:
    """Would catch a row's mistake that does not say in which file, and a file that is named twice."""
    with pytest.raises(UserError, match=r"^a\.jsonl: no id$"), about(Path("a.jsonl")):
        raise UserError("no id")
    with pytest.raises(UserError, match=r"^row 3 of a\.jsonl has no id$"), about(Path("a.jsonl")):
        raise UserError("row 3 of a.jsonl has no id")


@pytest.mark.parametrize("value", [[1, 2, 3.5, 4], (0, 0, 40, 20), [0, 0, 0.5, 2]])
def test_boxes_in_a_picture(value: Any) -> None:
    """Would catch a box up to the picture's edges refused, and a thin one taken for shares."""
    assert values.box("box", value, (40, 20)) == values.box("box", value) == tuple(map(float, value))


def test_a_box_may_overhang_where_no_size_is_known() -> None:
    """Would catch boxes of a detector refused, which end a little outside the picture."""
    assert values.box("box", [-2, 0, 41, 9]) == (-2, 0, 41, 9)
    assert values.box("box", [0, 0, 1, 1], (1, 1)) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("value", "size", "message"),
    [
        (
            None,
            None,
            "expected [left, top, right, bottom] in pixels of the original picture, left below right and top",
        ),
        ([1, 2, 3], None, "expected [left,"),
        ("1234", None, "expected [left,"),
        ([1, 2, 3, math.nan], None, "expected [left,"),
        ([0, 0, 1, True], None, "expected [left,"),
        ([5, 5, 5, 9], None, "expected [left,"),
        ([5, 9, 8, 9], (40, 20), "expected [left,"),
        ([0, 0, 41, 9], (40, 20), "expected one in the picture, which has 40 x 20 pixels"),
        ([-1, 0, 9, 9], (40, 20), "expected one in the picture"),
        ([0.1, 0.2, 0.4, 1], None, "not shares; it lies within the picture's first pixel"),
        ([0.1, 0.2, 0.4, 1], (40, 20), "not shares; it lies within the picture's first pixel"),
    ],
)
def test_what_is_no_box_is_refused(value: Any, size: tuple[int, int] | None, message: str) -> None:
    """Would catch empty boxes, and shares taken for pixels, which would all lie in region 0."""
    with pytest.raises(UserError, match=re.escape(f"line 3: box={value!r}: ") + ".*" + re.escape(message)):
        values.box("line 3: box", value, size)
