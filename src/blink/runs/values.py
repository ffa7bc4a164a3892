"""Checks of single values that a user gave: each returns the value, typed, or raises what was expected.

What they raise is a `UserError`, as does whatever else checks what a user gave. Every message reads `name=value:
expected ...`, with the value as Python writes it and `name` as the user writes it, "engine.memory_gb" for instance. A
`hint` goes behind the expectation: why, or what to give instead.
NumPy's numbers are numbers. A bool is none here, although Python counts with it; infinity and nan are none, either.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Concatenate, ParamSpec, TypeGuard, TypeVar, Union, get_args, get_origin


class UserError(ValueError):
    """What was given does not fit: raised by checks of values, files and settings, with what was got, expected and to do.

    Commands show it as one line. Any other ValueError comes from a place that expected no such value, which is a bug,
    and keeps its traceback.
    """


class DamagedError(UserError):
    """A file of a run does not hold what was written there, and it cannot be made anew from the others."""

    def __init__(self, path: Path, cause: object) -> None:
        super().__init__(
            f"{path} is damaged ({cause}); the run's command with fresh=true keeps its folder under another name and starts anew"
        )


_CHECK_WEIGHTS = (
    "check pixels and weights, and run a model that was trained in bfloat16 in bfloat16 or float32"
)


class NotFiniteError(UserError):
    """A model's numbers are nan or infinite: its weights or pixels are damaged, or its dtype too narrow.

    Args:
        what: which numbers, in the plural.
        layer: of the decoder, or where else it was, in words; None if it is not known.
        sample: number of the row among the prompts, or the name of a question; None if it is not known.
        ask: where prompts about several pictures were asked in one call, the number of those that `sample` counts in.
        remedy: what to do.
    """

    def __init__(
        self,
        what: str,
        *,
        layer: int | str | None = None,
        sample: int | str | None = None,
        ask: int | None = None,
        remedy: str = _CHECK_WEIGHTS,
    ) -> None:
        self.what, self.layer, self.sample, self.ask, self.remedy = what, layer, sample, ask, remedy
        places = [f"layer {layer}" if isinstance(layer, int) else layer]
        places += [None if ask is None else f"ask {ask} (from 0)"]
        places += [f"sample {sample} (row of the prompts, from 0)" if isinstance(sample, int) else sample]
        place = ", ".join(filter(None, places))
        super().__init__(
            f"{place}{place and ': '}{what} are nan, infinite or too large for their dtype: {remedy}"
        )

    def of(self, ask: int | None, sample: int | str | None) -> "NotFiniteError":
        """The same error, of another ask and sample."""
        return NotFiniteError(self.what, layer=self.layer, sample=sample, ask=ask, remedy=self.remedy)


T = TypeVar("T")
P = ParamSpec("P")


QUOTES = "put quotes around one that reads as a number"
"""Overrides on a command line are typed: `token_sr=12` is a number and `token_sr='12'` a text."""


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Context whose mistakes name a file or folder: in front of what they say, where they do not name it already.

    Raises:
        UserError: as the context does.
    """
    try:
        yield
    except UserError as cause:
        if str(path) in str(cause):
            raise
        raise UserError(f"{path}: {cause}") from cause


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number by its type: of Python or NumPy, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number by its type: of Python or NumPy, and no bool."""
    if is_whole(value):
        return -sys.float_info.max <= int(value) <= sys.float_info.max
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def optional(
    check: Callable[Concatenate[str, Any, P], T], name: str, value: Any, *args: P.args, **kwargs: P.kwargs
) -> T | None:
    """Return None for None, else what `check`, one of the functions below, makes of the value.

    Raises:
        ValueError: as `check` does.
    """
    return None if value is None else check(name, value, *args, **kwargs)


def whole_number(
    name: str, value: Any, least: int | None = 1, hint: str = "", *, most: int | None = None
) -> int:
    """Return an int of at least `least` and at most `most`; None is no bound.

    Raises:
        ValueError: it is no int, or a bool, or too small, or too large.
    """
    if not is_whole(value) or (least is not None and value < least) or (most is not None and value > most):
        bounds = ("" if least is None else f" of at least {least}") + (
            "" if most is None else f", at most {most:,}"
        )
        raise _mistake(name, value, f"a whole number{bounds}", hint)
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    unit: str = "",
    hint: str = "",
) -> float:
    """Return a finite number as a float.

    Args:
        above: it has to be larger than this.
        least: and at least this.
        most: and at most this.
        unit: what it counts, in the plural, for the message: "seconds".

    Raises:
        ValueError: it is no number, or a bool, not finite, or outside the bounds.
    """
    fits = is_number(value) and (above is None or value > above)
    if not fits or (least is not None and value < least) or (most is not None and value > most):
        raise _mistake(name, value, f"a number{unit and f' of {unit}'}{_range(above, least, most)}", hint)
    return float(value)


def text(name: str, value: Any, hint: str = QUOTES) -> str:
    """Return a text that is not empty.

    Raises:
        ValueError: it is no str, or empty.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        raise _mistake(name, value, "a text", hint)
    return value


def path(name: str, value: Any, what: str = "a path", hint: str = QUOTES) -> Path:
    """Return a path, ~ expanded; it need not exist.

    Args:
        what: for the message, such as "a folder".

    Raises:
        ValueError: it is no text, or an empty one.
    """
    if not _is_path(value):
        raise _mistake(name, value, what, hint)
    return Path(value).expanduser()


def paths(name: str, value: Any) -> list[Path]:
    """Return the paths of a list, or the one path that is given without a list, ~ expanded.

    Raises:
        ValueError: it is something else, or an empty list, or one of them is no text, or empty.
    """
    given = value if isinstance(value, list | tuple) else [value]
    if not given or not all(map(_is_path, given)):
        raise _mistake(name, value, "a path, or a list of paths", "")
    return [Path(part).expanduser() for part in given]


def flag(name: str, value: Any) -> bool:
    """Return a bool.

    Raises:
        ValueError: it is no bool, as 0, 1 and texts are not.
    """
    if not isinstance(value, bool):
        raise _mistake(name, value, "true or false", "")
    return value


def choice(name: str, value: Any, choices: Iterable[T], hint: str = "") -> T:
    """Return the one of `choices` that equals the value and is of its type, so that 1 is not True.

    Raises:
        ValueError: none of them does; the message lists them.
    """
    known = list(choices)
    for each in known:
        if type(each) is type(value) and each == value:
            return each
    raise _mistake(name, value, f"one of {', '.join(map(str, known))}", hint)


def whole_numbers(name: str, value: Any, example: str = "[5,3,1]") -> list[int]:
    """Return the ints of a list.

    Raises:
        ValueError: it is no list, or holds something else.
    """
    listed = isinstance(value, list | tuple)
    if not listed or not all(is_whole(part) for part in value):
        raise _mistake(name, value, f"a list of whole numbers, as {example}", "")
    return [int(part) for part in value]


def box(name: str, value: Any, size: tuple[int, int] | None = None) -> tuple[float, float, float, float]:
    """Return a box in pixels of a picture: left, top, right and bottom, x to the right, y down.

    Args:
        size: (width, height) of the picture, in which the box has to lie; None: it is not known, or the box may overhang.

    Raises:
        ValueError: it is no list of four numbers in order, lies outside the picture, or is one in shares of it.
    """
    four = isinstance(value, list | tuple) and len(value) == 4 and all(map(is_number, value))
    if not four or not (value[0] < value[2] and value[1] < value[3]):
        raise _mistake(
            name,
            value,
            "[left, top, right, bottom] in pixels of the original picture, left below right and top below bottom",
            "",
        )
    left, top, right, bottom = map(float, value)
    width, height = size or (math.inf, math.inf)
    if size is not None and not (left >= 0 and top >= 0 and right <= width and bottom <= height):
        raise _mistake(name, value, f"one in the picture, which has {width} x {height} pixels", "")
    if max(right, bottom) <= 1 < max(width, height):
        raise _mistake(
            name,
            value,
            "pixels of the original picture, not shares",
            "it lies within the picture's first pixel",
        )
    return left, top, right, bottom


def fits(value: object, kind: Any) -> bool:
    """Whether a value read from JSON is of a type, given as an annotation: of a file that a disk or a hand has changed.

    Args:
        kind: str, bool, int, float (any number, nan among them), None, Any, a class; a union of these; or a sequence or
            mapping of them, which JSON gives as list and dict.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if kind in (None, NoneType):
        return value is None
    if kind is int:
        return is_whole(value)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            fits(key, parts[0]) and fits(part, parts[1]) for key, part in value.items()
        )
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(fits(part, parts[0]) for part in value)
    return isinstance(value, origin or kind)


def _is_path(value: object) -> bool:
    """Whether a value can name a file: a text that is not empty and holds no zero byte."""
    return isinstance(value, str | Path) and str(value) != "" and "\0" not in str(value)


def _range(above: float | None, least: float | None, most: float | None) -> str:
    """Bounds in words, as they follow "a number"."""
    if least is not None and most is not None:
        return f" in [{least:g}, {most:g}]"
    bounds = {"above": above, "of at least": least, "of at most": most}
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    return words and f" {words}"


def _mistake(name: str, value: Any, expected: str, hint: str) -> UserError:
    return UserError(f"{name}={value!r}: expected {expected}{hint and f'; {hint}'}")
