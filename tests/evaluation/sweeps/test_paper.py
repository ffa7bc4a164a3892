"""The transcription of the paper's tables, against the sums and differences that the paper itself states."""

import pytest

from blink.bench import BENCHMARKS
from blink.bench.mme import COGNITION, PERCEPTION
from blink.evaluation.planning.presets import LAYER_STUDIES
from blink.evaluation.sweeps.paper import TABLES

STATED = [
    ("table1", "interp", "vanilla", "perception", 8.36),
    ("table1", "blink", "vanilla", "perception", 14.02),
    ("table1", "blink", "vanilla", "cognition", 3.93),
    ("table2", "interp w/o SGS", "interp", "total", -2.10),
    ("table2", "interp w/o DTR", "interp", "total", -8.63),
    ("table2", "interp w/o Drop", "interp", "total", -1.39),
    ("table2", "interp High tau_exp / Low tau_drop", "interp", "total", -1.75),
    ("table2", "interp High tau_exp", "interp", "total", 0.40),
    ("table2", "blink w/o SGS", "blink", "total", -2.15),
    ("table2", "blink w/o DTR", "blink", "total", -41.07),
    ("table2", "blink w/o Drop", "blink", "total", 2.50),
    ("table2", "blink High tau_exp / Low tau_drop", "blink", "total", -13.84),
    ("table2", "blink High tau_exp", "blink", "total", -15.99),
    ("table3", "11-17", "12-18", "perception", -1.54),
    ("table3", "11-17", "12-18", "cognition", 2.50),
    ("table3", "13-19", "12-18", "total", -7.42),
    ("table3", "14-20", "12-18", "total", -7.33),
    ("table5", "blink", "vanilla", "cognition", 15.00),
    ("table7", "interp w/o interp", "interp", "perception", -3.50),
    ("table7", "interp w/o interp", "interp", "cognition", 4.65),
    ("table7", "interp w/o interp", "interp", "total", 1.15),
    ("table7", "blink w/o interp", "blink", "perception", -4.66),
    ("table7", "blink w/o interp", "blink", "cognition", -6.79),
    ("table7", "blink w/o interp", "blink", "total", -11.45),
]


@pytest.mark.parametrize(("table", "row", "reference", "metric", "difference"), STATED)
def test_differences_are_those_of_the_text(
    table: str, row: str, reference: str, metric: str, difference: float
) -> None:
    """Would catch a digit typed wrongly, and values of one row or method in another's place."""
    rows = TABLES[table].rows
    assert rows[row]["mme"][metric] - rows[reference]["mme"][metric] == pytest.approx(difference, abs=0.006)


@pytest.mark.parametrize("name", TABLES)
def test_totals_are_sums(name: str) -> None:
    """Would catch a subtask in the wrong column: the paper rounds each subtask and each total to two digits."""
    for row in TABLES[name].rows.values():
        mme = row["mme"]
        if {"perception", "cognition", "total"} <= mme.keys():
            assert mme["perception"] + mme["cognition"] == pytest.approx(mme["total"], abs=0.006)
        for parts, total in ((PERCEPTION, "perception"), (COGNITION, "cognition")):
            if parts[0] in mme:
                assert sum(mme[part] for part in parts) == pytest.approx(mme[total], abs=0.03)


def test_single_numbers_are_in_their_columns() -> None:
    """Would catch two benchmarks swapped: corners of Tables 1 and 5, and counts that only one benchmark can give."""
    first, last = TABLES["table1"].rows["vanilla"], TABLES["table5"].rows["blink"]
    assert first["gqa"] == {"score": 61.93}
    assert last["mmvet"] == {"score": 40.50}
    for table in ("table1", "table5"):
        for row in TABLES[table].rows.values():
            for bench, whole in (
                ("pope", 3000),
                ("scienceqa", 2017),
                ("mmbench", 1164),
                ("mmbench_cn", 1164),
            ):
                count = row[bench]["score"] * whole / 100
                assert abs(count - round(count)) <= 0.0051 * whole / 100


def test_tables_are_of_known_backbones_and_benchmarks() -> None:
    """Would catch a backbone or benchmark that no run could ever match."""
    for table in TABLES.values():
        assert table.family in LAYER_STUDIES
        named = {bench for row in table.rows.values() for bench in row}
        assert named <= set(BENCHMARKS)
