"""The common look of all figures, and how they are saved: PNG, PDF, and the numbers behind them as CSV and JSON.

Lines differ in colour (those of Okabe and Ito, which colour-blind readers tell apart), in dash and in marker; maps
use cividis, whose lightness rises with the value. So figures can be read in print without colour.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from blink.runs.files import whole_file, write_csv, write_json

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#767676",
)
MAP = "cividis"


class Line(NamedTuple):
    """Label and line style of one method in every figure."""

    label: str
    colour: str
    dash: str
    marker: str


VANILLA = Line("vanilla", BLACK, ":", "s")
INTERP = Line("interpolation", BLUE, "--", "^")
TOKEN_SR = Line("TokenSR", VERMILLION, "-", "o")

_SERIES = (BLUE, VERMILLION, PURPLE, ORANGE, GREEN, SKY, BLACK)
_DASHES = ("-", "--", "-.", (0, (3, 1, 1, 1)))
_MARKERS = ("o", "^", "s", "D", "v")


class SeriesStyle(NamedTuple):
    """Colour, dash and marker of one of several series."""

    colour: str
    dash: Any
    marker: str


def series_styles(count: int) -> list[SeriesStyle]:
    """As many styles as asked for; up to 140 no two are the same. Dotted lines are left for what series are held against."""
    return [
        SeriesStyle(
            _SERIES[number % len(_SERIES)],
            _DASHES[number // len(_SERIES) % len(_DASHES)],
            _MARKERS[number % len(_MARKERS)],
        )
        for number in range(count)
    ]


_LETTERS_AN_INCH, _HANDLE_LETTERS = 14, 8
"""Of a legend's text, and what stands before each of its labels."""

_OWN_FONT = "DejaVu Sans"  # ships with matplotlib
_WIDE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "SimHei",
)
"""Fonts with Chinese characters; those that are installed stand in where matplotlib's own font has no glyph."""


@contextmanager
def look() -> Iterator[None]:
    """Context in which figures are drawn and saved with the common fonts, sizes and colours."""
    settings: Any = {
        "font.family": [_OWN_FONT, *_installed(_WIDE_FONTS)],
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "figure.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 4,
        "image.cmap": MAP,
        "image.interpolation": "nearest",
        "savefig.dpi": 160,
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(settings):
        yield


def plain(text: str, width: int | None = None, lines: int = 3) -> str:
    """Return a text for matplotlib to show literally: $ escaped, characters without a glyph replaced.

    With a `width` it is wrapped to so many characters and cut after `lines` lines.
    """
    known = "".join(c if c == "\n" or _has_glyph(c) else "\N{WHITE SQUARE}" for c in text)
    safe = known.replace("$", r"\$")
    if width is None:
        return safe
    wrapped = [part for line in safe.splitlines() for part in textwrap.wrap(line, width) or [""]]
    return "\n".join(
        [*wrapped[: lines - 1], wrapped[lines - 1] + " ..."] if len(wrapped) > lines else wrapped
    )


def font_file(text: str) -> str:
    """Return the file of a font with glyphs for all of a text, else of matplotlib's own: for drawing with Pillow."""
    files = _font_files()
    letters = {character for character in text if not character.isspace()}
    fitting = (
        path
        for path, font in zip(files, _fonts(), strict=True)
        if all(font.get_char_index(ord(letter)) for letter in letters)
    )
    return next(fitting, files[0])


def bare(axes: Axes) -> None:
    """Remove ticks and frame, for pictures and maps."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def outline(
    axes: Axes, left: float, top: float, width: float, height: float, *, colour: str, dash: Any = "-"
) -> None:
    """Draw a rectangle with a white rim, so that it can be seen on light and dark pictures."""
    axes.add_patch(
        Rectangle(
            (left, top),
            width,
            height,
            fill=False,
            edgecolor=colour,
            linestyle=dash,
            linewidth=1.8,
            path_effects=[withStroke(linewidth=3.4, foreground="white")],
        )
    )


def legend_above(axes: Axes) -> None:
    """Put the legend of axes on top of them, in as many columns as fit: nothing that is drawn inside can lie under it."""
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    if not once:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes are made by a figure"
    longest = max(len(line) for name in once for line in name.splitlines()) + _HANDLE_LETTERS
    room = axes.get_position().width * figure.get_figwidth() * _LETTERS_AN_INCH
    columns = min(len(once), max(1, int(room / longest)))
    axes.legend(
        once.values(), once.keys(), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.4, ncols=columns
    )


def interval_rows(
    axes: Axes,
    found: Mapping[str, tuple[float, float, float]],
    colours: Sequence[str],
    *,
    against_zero: bool = False,
) -> None:
    """Draw values with their intervals, one under the other, each named at the left.

    Args:
        found: name -> value and both ends of its interval, which are nan where it has none.
        against_zero: draw 0 as a line, and fill the marker where the interval leaves it out.
    """
    if against_zero:
        axes.axvline(0, color="0.7", linewidth=1, zorder=0)
    for row, ((value, low, high), colour) in enumerate(zip(found.values(), colours, strict=True)):
        filled = not against_zero or low > 0 or high < 0
        axes.errorbar(
            value,
            row,
            xerr=[[part] for part in reach(value, low, high)],
            marker="o",
            color=colour,
            markerfacecolor=colour if filled else "white",
            capsize=2,
        )
    axes.set_yticks(range(len(found)), [plain(name) for name in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)


def reach(value: float, low: float, high: float) -> tuple[float, float]:
    """How far an interval reaches below and above a value; 0 where there is none."""
    return tuple(0.0 if math.isnan(part) else max(0.0, part) for part in (value - low, high - value))  # type: ignore[return-value]


class Drawn(NamedTuple):
    """A drawn figure, which may consist of several pictures, and the numbers behind it.

    Attributes:
        figures: file name without ending -> picture.
        table: the numbers behind it, one record per point.
        numbers: more of them, for the JSON file.
    """

    figures: dict[str, Figure]
    table: list[dict[str, Any]]
    numbers: dict[str, Any]


def save_figure(figure: Figure, path: Path, dpi: float | None = None) -> None:
    """Save a figure as a whole file, of the kind that its ending names.

    Args:
        dpi: dots per inch; None is the look's.
    """
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=dpi or mpl.rcParams["savefig.dpi"])


def save(drawn: Drawn, name: str, folder: Path) -> list[str]:
    """Write a figure's pictures as PNG and PDF and its numbers as `name`.csv and `name`.json; return the file names."""
    names = []
    for title, figure in drawn.figures.items():
        for ending in ("png", "pdf"):
            names.append(f"{title}.{ending}")
            save_figure(figure, folder / names[-1])
            figure.set_layout_engine("none")  # laid out once is enough
    write_csv(folder / f"{name}.csv", drawn.table)
    write_json(folder / f"{name}.json", _plain_values({**drawn.numbers, "table": drawn.table}))
    return [*names, f"{name}.csv", f"{name}.json"]


def _plain_values(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_values(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_values(part) for part in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain_values(value.tolist())
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


@lru_cache(maxsize=1)
def _installed(names: tuple[str, ...]) -> list[str]:
    there = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in names if name in there]


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    return any(font.get_char_index(ord(character)) for font in _fonts())


@lru_cache(maxsize=1)
def _font_files() -> list[str]:
    return [str(font_manager.findfont(name)) for name in (_OWN_FONT, *_installed(_WIDE_FONTS))]


@lru_cache(maxsize=1)
def _fonts() -> list[FT2Font]:
    return [FT2Font(path) for path in _font_files()]
