"""Tables of text: for the screen, cut into parts that fit, and as Markdown. Knows nothing of the cells' content."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table


class GridRow(NamedTuple):
    """A row of cells; lines of a cell are separated by newlines.

    Attributes:
        label: first cell.
        cells: one per column.
        below: cells of a second row that belongs to this one, with a label of its own; None where there is none.
        group: rows of one group stay together where rows become columns.
    """

    label: str
    cells: Sequence[str]
    below: tuple[str, Sequence[str]] | None = None
    group: str = ""


class Grid(NamedTuple):
    """A table.

    Attributes:
        title: above it.
        corner: heading of the labels.
        columns: headings.
        units: for each column what it belongs to; columns of one unit stay together if they fit.
        rows: as many cells each as there are columns.
        numbers: whether the cells are numbers, to be right-aligned, and not text.
    """

    title: str
    corner: str
    columns: Sequence[str]
    units: Sequence[str]
    rows: Sequence[GridRow]
    numbers: bool = True


def transposed(grid: Grid) -> Grid:
    """Turn rows into columns; what stood below a cell is appended to it in brackets."""
    columns = [
        [f"{cell}\n({below})" if below else cell for cell, below in zip(row.cells, _below(row), strict=True)]
        for row in grid.rows
    ]
    rows = [
        GridRow(heading.replace("\n", " "), [column[i] for column in columns])
        for i, heading in enumerate(grid.columns)
    ]
    return Grid(grid.title, "", [row.label for row in grid.rows], [row.group for row in grid.rows], rows)


def markdown(grid: Grid) -> str:
    """Return the grid as a Markdown table under its title."""
    lines = [f"**{grid.title}**", "", _line([grid.corner, *grid.columns])]
    lines.append(_line(["---", *(["---:" if grid.numbers else "---"] * len(grid.columns))]))
    lines += [_line([label, *cells]) for label, cells in _flat(grid)]
    return "\n".join(lines)


def on_screen(grid: Grid, most: int) -> Iterator[Table]:
    """Yield tables of at most `most` columns beside the labels, which together show the grid."""
    parts = _parts(grid.units, most)
    for number, part in enumerate(parts):
        title = grid.title if len(parts) == 1 else f"{grid.title} ({number + 1} of {len(parts)})"
        table = Table(
            grid.corner,
            title=title,
            title_justify="left",
            min_width=len(title) + 1,
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for i in part:
            table.add_column(grid.columns[i], justify="right" if grid.numbers else "left")
        for label, cells in _flat(grid):
            table.add_row(label, *(cells[i] for i in part))
        yield table


def _parts(units: Sequence[str], most: int) -> list[list[int]]:
    """Column indices of each part: whole units as long as they fit, larger ones cut evenly."""
    parts: list[list[int]] = [[]]
    for unit in dict.fromkeys(units):
        indices = [i for i, other in enumerate(units) if other == unit]
        pieces = -(-len(indices) // most)
        size = -(-len(indices) // pieces)
        for start in range(0, len(indices), size):
            piece = indices[start : start + size]
            if len(parts[-1]) + len(piece) > most:
                parts.append([])
            parts[-1] += piece
    return parts


def _flat(grid: Grid) -> Iterator[tuple[str, Sequence[str]]]:
    """All rows, those below others among them."""
    for row in grid.rows:
        yield row.label, row.cells
        if row.below is not None:
            yield row.below


def _below(row: GridRow) -> Sequence[str]:
    return [""] * len(row.cells) if row.below is None else row.below[1]


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells)
    return f"| {' | '.join(escaped)} |"
