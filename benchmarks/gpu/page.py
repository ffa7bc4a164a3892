"""The section of docs/performance.md that says what a GPU measured; the rest of the page is `python -m benchmarks`'s."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import Row
from benchmarks.report import machine, markdown

BEGIN, END = "<!-- written by make gpu -->", "<!-- end of make gpu -->"

NOT_YET = f"""{BEGIN}
## On a GPU, at full size

Not measured yet: `make gpu` writes its table here, and has not run on a GPU so far. Its parts run on the CPU on a small
model, as their own test.
{END}
"""


class Found(NamedTuple):
    """What became of a part.

    Attributes:
        part: its name.
        rows: what it measured, as far as it came.
        seconds: that it took.
        why: of its rows, should one miss its bar.
        ended: why it did not come to its end; empty if it did.
    """

    part: str
    rows: list[Row]
    seconds: float
    why: str
    ended: str = ""


def section(found: Sequence[Found]) -> str:
    """The section, with its marks."""
    rows = [row for part in found for row in part.rows]
    text = [
        BEGIN,
        "## On a GPU, at full size",
        "",
        f"Written by `make gpu` in {sum(part.seconds for part in found):.0f} s on {machine()}. Random weights; sides of a ratio "
        "ran in turn; in brackets the extremes over the repetitions.",
        "",
        markdown(rows),
    ]
    ended = [f"- {part.part}: {part.ended}." for part in found if part.ended]
    misses = [
        f"- {row.what} ({row.where}). {part.why}" for part in found for row in part.rows if not row.holds
    ]
    for title, lines in (("Not measured to the end", ended), ("What misses its bar, and why", misses)):
        if lines:
            text += ["", f"### {title}", "", *lines]
    return "\n".join([*text, END, ""])


def section_of(page: str) -> str:
    """The section in a page, or the words that there is none yet."""
    _, mark, behind = page.partition(BEGIN)
    if not mark or END not in behind:
        return NOT_YET
    return f"{mark}{behind.partition(END)[0]}{END}\n"


def put(path: Path, written: str) -> None:
    """Put a section into a page in place of the one there, or at its end; a page that is not there is made."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    before, mark, behind = page.partition(BEGIN)
    if mark and END in behind:
        page = before + written.rstrip("\n") + behind.partition(END)[2]
    else:
        page = f"{page.rstrip()}\n\n{written}".lstrip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
