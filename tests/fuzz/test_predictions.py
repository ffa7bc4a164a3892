"""Whatever a file of predictions holds: scores, or one line that names the file."""

import copy
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blink.bench import BENCHMARKS, make_row
from blink.bench.results.given_rows import complete, judged, read_rows
from blink.evaluation.scores import score_file
from blink.runs.values import UserError, about
from blink.score import make_benchmark
from tests.fuzz.strategies import damaged, mutated

EVENT = {"layer": 3, "ratio": 0.7, "region": 1, "action": "expand"}


@lru_cache
def whole(name: str) -> list[dict[str, Any]]:
    """Rows as an evaluation writes them: the first few questions about a drawn picture."""
    benchmark = BENCHMARKS[name]()
    rows = [
        make_row(sample, benchmark, sample.label, tokens=2, events=[])
        for sample in benchmark.from_scenes("validation", 1)[:4]
    ]
    graded = {"score": 0.5, "judge": "gpt", "judge_model": "gpt-4"} if name == "mmvet" else {}
    return [row | {"events": [EVENT]} | graded for row in rows]


def check(name: str, path: Path) -> None:
    """Score a file and write it as the benchmark's authors read it, as the command does."""
    settings = {"bench": {"name": name}, "judge": {"kind": "given"}, "prompt": "llava"}
    try:
        rows = read_rows(path)
        with about(path):
            benchmark = make_benchmark(settings, rows)
            completed = judged(benchmark, complete(benchmark, rows), path.parent)
            result = score_file(benchmark, completed, path)
            json.dumps(result.written(), ensure_ascii=False).encode()
            benchmark.export(completed.rows, path.parent)
    except UserError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert str(path) in refused
        return
    assert result.n == len(rows)
    percent = (value for metric, value in result.metrics.items() if result.unit(metric) == "%")
    assert all(math.isnan(value) or -1e-9 <= value <= 100 + 1e-9 for value in percent)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_whole_rows_are_scored(name: str, tmp_path: Path) -> None:
    """Would catch rows that none of the tests below gets past the first check."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in whole(name)))
    check(name, path)
    assert len(list(tmp_path.iterdir())) > 1


@pytest.mark.parametrize("name", BENCHMARKS)
@given(data=st.data())
def test_rows_of_any_values(data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Would catch a traceback, or a score outside its range, for a value of another type and for a key that is missing."""
    rows = data.draw(mutated(copy.deepcopy(whole(name))))
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    check(name, path)


@pytest.mark.parametrize("name", ["pope", "mmvet"])
@given(data=st.data())
def test_damaged_files(data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Would catch a traceback for a file that was cut off, or in which bytes were lost."""
    content = "".join(json.dumps(row) + "\n" for row in whole(name)).encode()
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_bytes(data.draw(damaged(content)))
    check(name, path)
