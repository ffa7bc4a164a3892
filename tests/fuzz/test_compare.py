"""`python -m blink.compare`: whatever its arguments are and whatever its folders hold, tables or one line that names one."""

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blink.bench import BENCHMARKS, make_row
from blink.bench.results.given_rows import complete, judged
from blink.compare import main
from blink.evaluation.answering.rows import PREDICTIONS
from blink.evaluation.result import SCORES
from blink.evaluation.scores import score_file
from blink.runs.command import Ended
from blink.runs.files import json_lines
from blink.score import make_benchmark
from tests.fuzz.strategies import damaged, mutated

NAMES = ("pope", "mme", "mmbench", "mmvet")
"""Benchmarks of each kind of score: shares with an F1, sums over pairs, rotations that count together, grades."""

ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["", " ", ".", "..", "/", "~", "--", "-x", "--help=1", "*", "a\0b", "a" * 300, "é", "a=b", "a,b"]
        ),
        st.sampled_from(["first", "second", "empty", "file", "first/scores.json"]),
        st.text(max_size=8),
    ),
    max_size=3,
)


@lru_cache
def whole(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores and rows of an evaluation, as `blink.eval` writes them."""
    benchmark = make_benchmark({"bench": {"name": name}, "judge": {"kind": "given"}, "prompt": "llava"}, [])
    asked = BENCHMARKS[name]().from_scenes("validation", 1)[:4]
    given_rows = [make_row(sample, benchmark, sample.label, tokens=2, events=[]) for sample in asked]
    completed = judged(benchmark, complete(benchmark, given_rows), Path())
    return score_file(benchmark, completed, Path()).written(), completed.rows


def written(folder: Path, scores: bytes | str, predictions: bytes | str) -> Path:
    """A run's folder with these files."""
    folder.mkdir()
    for name, content in ((SCORES, scores), (PREDICTIONS, predictions)):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def both(root: Path, name: str) -> tuple[Path, Path]:
    """Two equal runs."""
    scores, rows = whole(name)
    content = (json.dumps(scores), json_lines(rows))
    return written(root / "first", *content), written(root / "second", *content)


def check(arguments: list[str], root: Path) -> bool:
    """Whether the command prints its tables; if it does not, it ends with one line."""
    try:
        main(arguments)
    except Ended as ended:
        refused = ended
    else:
        return True
    assert refused.code == 2
    assert "\n" not in str(refused)
    assert str(root) in str(refused)
    return False


@pytest.mark.parametrize("name", NAMES)
def test_whole_runs_are_compared(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch runs that none of the tests below gets past the first check."""
    assert check([str(folder) for folder in both(tmp_path, name)], tmp_path)
    assert "McNemar" in capsys.readouterr().out


@given(arguments=ARGUMENTS)
def test_any_arguments(
    arguments: list[str], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a traceback for a folder that is a file, holds nothing, or cannot be named."""
    root = tmp_path_factory.mktemp("data")
    both(root, "pope")
    (root / "empty").mkdir()
    (root / "file").touch()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        code: Any = 0
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
    assert code in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_any_scores(data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Would catch a traceback for values of another type, keys that are missing, and bytes that are lost."""
    root = tmp_path_factory.mktemp("data")
    scores, rows = whole(name)
    content = json.dumps(data.draw(mutated(copy.deepcopy(scores)))).encode()
    if data.draw(st.booleans()):
        content = data.draw(damaged(json.dumps(scores).encode()))
    first = written(root / "first", json.dumps(scores), json_lines(rows))
    second = written(root / "second", content, json_lines(rows))
    check([str(first), str(second)], root)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_any_predictions(data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Would catch a traceback, or pairs of other questions, for rows that were changed or cut off."""
    root = tmp_path_factory.mktemp("data")
    scores, rows = whole(name)
    content = "".join(json.dumps(row) + "\n" for row in data.draw(mutated(copy.deepcopy(rows)))).encode()
    if data.draw(st.booleans()):
        content = data.draw(damaged(json_lines(rows).encode()))
    first = written(root / "first", json.dumps(scores), json_lines(rows))
    second = written(root / "second", json.dumps(scores), content)
    check([str(first), str(second)], root)
