"""Tables of text, by their cells."""

from rich.console import Console

from blink.evaluation.sweeps.text_tables import Grid, GridRow, markdown, on_screen, transposed

GRID = Grid(
    "Title",
    "row",
    ["a\nunder", "b", "c"],
    ["one", "two", "two"],
    [
        GridRow("first", ["1\n0..2", "2", "3"], ("paper", ["", "9", "8"]), "g"),
        GridRow("second", ["4", "5|6", "7"], None, "h"),
    ],
)


def test_markdown_has_one_line_per_row() -> None:
    """Would catch a row below lost, and a line break or bar in a cell that breaks the table."""
    assert markdown(GRID).splitlines() == [
        "**Title**",
        "",
        "| row | a<br>under | b | c |",
        "| --- | ---: | ---: | ---: |",
        "| first | 1<br>0..2 | 2 | 3 |",
        "| paper |  | 9 | 8 |",
        "| second | 4 | 5\\|6 | 7 |",
    ]


def test_transposed_keeps_what_stood_below_in_brackets() -> None:
    """Would catch the paper's value beside another row or metric than its own."""
    turned = transposed(GRID)
    assert (turned.columns, turned.units) == (["first", "second"], ["g", "h"])
    assert [(row.label, row.cells) for row in turned.rows] == [
        ("a under", ["1\n0..2", "4"]),
        ("b", ["2\n(9)", "5|6"]),
        ("c", ["3\n(8)", "7"]),
    ]


def test_wide_grids_are_cut_between_units() -> None:
    """Would catch a column lost at a cut, and a benchmark torn from its share of expansions where it would fit."""

    def columns(most: int) -> list[list[str]]:
        return [[str(column.header) for column in table.columns[1:]] for table in on_screen(GRID, most)]

    assert columns(3) == [["a\nunder", "b", "c"]]
    assert columns(2) == [["a\nunder"], ["b", "c"]]
    assert columns(1) == [["a\nunder"], ["b"], ["c"]]
    console = Console(width=80, markup=False)
    with console.capture() as capture:
        for table in on_screen(GRID, 2):
            console.print(table)
    assert "Title (2 of 2)" in capture.get()
