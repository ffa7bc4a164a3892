"""The measurements by hand: how sides are timed, what is computed, and that they run on small stand-ins."""

import runpy
import sys
from pathlib import Path

import pytest
from benchmarks.common import Bench, Options, Row, Times, in_turn, interleave, wide
from benchmarks.noise import Answered, before_closing, differences
from benchmarks.records import Record, Records, key
from benchmarks.report import markdown

from benchmarks import extensions, never, on_paper, scans, training
from blink import Event

PARTS = [
    path for path in sorted(Path(never.__file__).parent.glob("*.py")) if '"__main__"' in path.read_text()
]


def small() -> Bench:
    """Width 256, two layers, 576 visual tokens."""
    return next(wide(Options(quick=True, layers=2, dtypes=("float32",)), layers=4))


def test_sides_take_turns() -> None:
    """Would catch one side timed in a block of its own, and a warm-up that is counted."""
    calls: list[str] = []
    times = interleave(lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert calls == ["ours", "theirs"] * 4
    assert len(times.ours) == len(times.theirs) == 3


def test_several_sides_take_turns() -> None:
    """Would catch sides whose seconds are mixed up, and a warm-up where none is wanted."""
    calls: list[int] = []
    times = in_turn([lambda n=n: calls.append(n) for n in range(3)], 2, warm_up=False)  # type: ignore[misc]
    assert calls == [0, 1, 2] * 2
    assert [len(seconds) for seconds in times] == [2, 2, 2]


def test_ratio_is_of_medians() -> None:
    """Would catch a mean, which one interrupted repetition moves."""
    times = Times([2.0, 2.0, 90.0], [1.0, 1.0, 1.0])
    assert times.ratio == 2
    assert times.ratios == [2, 2, 90]


def test_table_marks_what_misses() -> None:
    """Would catch a missed bar that reads like a kept one."""
    rows = [Row("a", "b", 1.0, 0.9, 1.1, "<= 1.03", holds, 1.02) for holds in (True, False)]
    kept, missed = markdown(rows).splitlines()[-2:]
    assert "| yes |" in kept
    assert "| **no** |" in missed


@pytest.mark.slow
def test_prompt_measurements_run() -> None:
    """Would catch a policy that expands where it must not, or does not where it must: the FLOPs on paper tell.

    Beside the vision tower, which has its true width, a decoder of width 256 weighs little.
    """
    bench = small()
    never_expands = never.row(bench, (1,), 1).floor or 0
    expands = extensions.row(bench, refined=False, repeats=1).floor or 0
    assert 1 < never_expands < 1.01 < expands < 1.1


def test_scans_are_timed_inside_a_pass() -> None:
    """Would catch timed functions that a pass no longer calls, and seconds of a warm-up or of another function."""
    [row] = scans.on_wide(Options(quick=True, layers=2, dtypes=("float32",), repeats=1))
    assert 1 < row.low <= row.value <= row.high < 1 + scans.SCANNED / scans.LAYERS


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_parts_have_a_command_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a part that measures for an hour where it is asked for its options, or that names itself wrongly."""
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    name = "benchmarks" if path.stem == "__main__" else f"benchmarks.{path.stem}"
    assert capsys.readouterr().out.startswith(f"usage: python -m {name} [-h]")


def test_training_keeps_nothing_of_the_backbone() -> None:
    """Would catch activations of the frozen trunk kept for a backward pass, and layers loaded that are not needed."""
    assert training.memory().holds


def test_a_step_carried_over_to_full_size() -> None:
    """Would catch shares of a step mixed up: where a module costs nothing, seven cost as much as one, and the reverse."""
    dims = small().dims
    assert training._full_size(dims, both=1.0, alone=1.0) == 1
    assert training._full_size(dims, both=2.0, alone=1.0) == 7


def test_full_size_table() -> None:
    """Would catch a backbone's numbers mixed up, by hand for LLaVA-1.5-7B on POPE.

    637 tokens through 6.48 G weights of decoder layers, attention of 32 layers, the 0.41 TFLOP of vision tower and
    projector, and the last token's logits twice, with one decoding step: 8.88 TFLOP.
    """
    table = {line[:2]: line for line in on_paper.lines()}
    assert len(table) == 12
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    by_hand = 2 * 638 * layers + 32 * 4 * 4096 * (637**2 + 638) + 4 * 4096 * 32064 + 0.406e12
    assert abs(float(table["LLaVA-1.5-7B", "POPE"][3]) - by_hand / 1e12) < 0.01


def test_full_size_table_with_blink() -> None:
    """Would catch an extension counted in the wrong layers, by hand for LLaVA-1.5-7B.

    MME, layers 12-18: 576 more tokens in 20 layers of 643, one scan of 643 and six of 1,219 keys, one TokenSR. POPE,
    layer 18, all 18 questions together: the trunk once, four extensions through 13 layers and to the keys of the last,
    18 texts of 26 tokens, 14 layers of which see the extension, and 18 decoding steps.
    """
    table = {line[:2]: line for line in on_paper.lines()}
    weights = 4 * 4096**2 + 3 * 4096 * 11008
    expander = 2 * 576 * (25 * 4096 * 2048 + 9 * 2048 * 1024 + 1024 * 4096)
    mme = 20 * (2 * 576 * weights + 4 * 4096 * (1219**2 - 643**2)) + expander
    mme += 2 * 4096**2 * (644 + 6 * 1220)
    assert abs(float(table["LLaVA-1.5-7B", "MME"][4]) - (1 + mme / 8.965e12)) < 0.01
    qkv = 3 * 2 * 4096**2
    trunk = 0.406e12 + 31 * (2 * 611 * weights + 4 * 4096 * 611**2) + 611 * qkv
    extensions_ = 4 * (13 * (2 * 576 * weights + 4 * 4096 * 576 * 1187) + 576 * qkv + expander)
    texts = 18 * 26 * (32 * 2 * weights + 4 * 4096 * (18 * 637 + 14 * 1213)) + 18 * 32 * 2 * weights
    together = (trunk + extensions_ + texts) / (18 * 8.88e12)
    assert abs(float(table["LLaVA-1.5-7B", "POPE"][6]) - together) < 0.002


def test_records_of_other_sources_do_not_count(tmp_path: Path) -> None:
    """Would catch rows kept from before the code changed, and finished parts that a killed run measures again."""
    source = tmp_path / "package" / "module.py"
    source.parent.mkdir()
    source.write_text("a = 1")
    row = Row("a", "b", 1.0, 0.9, 1.1, "<= 1.03", True)
    old = {"first": key("words", [source.parent])}
    Records(tmp_path / "rows.jsonl", old).add(Record("first", [row], 2.0, 0.5))
    assert Records(tmp_path / "rows.jsonl", old).read() == [Record("first", [row], 2.0, 0.5)]
    source.write_text("a = 2")
    new = {"first": key("words", [source.parent])}
    assert Records(tmp_path / "rows.jsonl", new).read() == []
    assert Records(tmp_path / "rows.jsonl", {"second": old["first"]}).read() == []


def test_what_differs_between_two_sides() -> None:
    """Would catch a ratio that counts as a flip, and flips of region or action that do not."""
    at = Event(9, 0.5, 1, "keep")
    one = [Answered((1,), (at,)), Answered((1,), (at,)), Answered((2,), (at,)), Answered((2,), (at,))]
    other = [
        Answered((1,), (Event(9, 0.75, 1, "keep"),)),
        Answered((3,), (Event(9, 0.5, 2, "keep"),)),
        Answered((2,), (Event(9, 0.5, 1, "drop"),)),
        Answered((2,), (at,)),
    ]
    assert differences(one, other) == (1, 2, 4, 0.25)


def test_answers_end_at_their_closing_token() -> None:
    """Would catch padding behind a short answer of a batch that counts as a difference."""
    assert (
        before_closing([5, 6, 2, 0, 0], frozenset({2})) == before_closing([5, 6, 2], frozenset({2})) == (5, 6)
    )
    assert before_closing([5, 6], frozenset({2})) == (5, 6)
