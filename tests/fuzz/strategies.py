"""What files may hold that they should not: values of other types, cells that are missing, bytes that are lost."""

import copy
from collections.abc import Iterator, MutableMapping, MutableSequence
from typing import Any

from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [
            "",
            " ",
            "nan",
            "None",
            "yes",
            "no",
            "A",
            "1",
            "-1",
            "1.5",
            "1e999",
            "../a.jpg",
            "/etc/passwd",
            "C:\\a",
            "a\0b",
            *("a" * 300, "\u2028", "é", "<image>", "\t", "\n", "{}", "[]", "_".join("a" * 40), "💡"),
        ]
    ),
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=4), SCALARS, max_size=2)
)
"""Values of JSON, most of them not what any file should hold."""

MISSING = object()
"""Stands for a key or an element that is taken away."""


def places(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values inside nested lists and dicts, the content itself left out."""
    inner: Any = ()
    if isinstance(content, MutableMapping):
        inner = content.items()
    elif isinstance(content, MutableSequence):
        inner = enumerate(content)
    for key, value in inner:
        yield (*before, key)
        yield from places(value, (*before, key))


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested lists and dicts with another value at a place, or with none."""
    result = copy.deepcopy(content)
    at = result
    for key in place[:-1]:
        at = at[key]
    if value is MISSING:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return result


@st.composite
def mutated(draw: st.DrawFn, content: Any) -> Any:
    """The content with one to three of its values changed or gone."""
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(content))
        if not known:
            break
        content = changed(content, draw(st.sampled_from(known)), draw(st.one_of(st.just(MISSING), VALUES)))
    return content


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are cut off, overwritten, put in or taken out."""
    kind = draw(st.sampled_from(["cut", "overwritten", "inserted", "removed", "zeros"]))
    start = draw(st.integers(0, len(content)))
    if kind == "cut":
        return content[:start]
    some = bytes(8) if kind == "zeros" else draw(st.binary(min_size=1, max_size=8))
    taken = 0 if kind == "inserted" else len(some)
    return content[:start] + (b"" if kind == "removed" else some) + content[start + taken :]
