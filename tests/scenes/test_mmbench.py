"""MMBench on scenes: whole groups of rotations, in words that the tiny backbone was taught."""

from collections import defaultdict
from typing import Any

import pytest

from blink.bench import MMBench, MMBenchCN
from blink.bench.mmbench import ABILITIES, CATEGORIES
from blink.scenes.ask import Question
from blink.scenes.formats import LETTER, LETTER_ZH, LETTER_ZH_LMMS, SEVERAL, Choices, multiple_choice
from blink.scenes.mmbench import mmbench_rows


def groups(count: int) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in mmbench_rows("test", count):
        found[row["index"] % 1_000_000].append(row)
    return found


def shown(row: dict[str, Any]) -> list[str]:
    return [row[letter] for letter in "ABCD" if row[letter] is not None]


def test_every_question_comes_in_all_its_rotations() -> None:
    """Would catch a rotation left out or twice, and an answer that does not move with its option."""
    asked = groups(30)
    assert len(asked) == 120
    sizes = set()
    for rows in asked.values():
        options = shown(rows[0])
        right = options["ABCD".index(rows[0]["answer"])]
        sizes.add(len(options))
        assert [row["index"] // 1_000_000 for row in rows] == list(range(len(options)))
        assert [shown(row) for row in rows] == [options[k:] + options[:k] for k in range(len(options))]
        assert {shown(row)["ABCD".index(row["answer"])] for row in rows} == {right}
        assert len(set(options)) == len(options)
        same = ("question", "hint", "category", "l2-category", "image_source", "box")
        assert len({tuple(row[name] for name in same) for row in rows}) == 1
    assert sizes == {2, 3, 4}


def test_rows_have_the_official_columns_and_a_hint_in_half_of_the_questions() -> None:
    """Would catch columns that differ from the authors' table, and hints in none or all questions."""
    asked = groups(30)
    columns = {
        *("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source"),
        *("l2-category", "comment", "split", "image_source", "box", "difficulty", "kind"),
    }
    assert {name for rows in asked.values() for row in rows for name in row} == columns
    assert all(row["category"] in CATEGORIES and row["l2-category"] in ABILITIES for row in asked[0])
    assert 40 < sum(rows[0]["hint"] is not None for rows in asked.values()) < 80
    assert len({(rows[0]["image_source"], rows[0]["question"]) for rows in asked.values()}) == 120


def test_questions_of_a_picture_do_not_depend_on_the_others() -> None:
    """Would catch a generator or a numbering shared between pictures."""

    def plain(rows: Any) -> list[dict[str, Any]]:
        return [{name: value for name, value in row.items() if name != "image"} for row in rows]

    few, later, many = (plain(mmbench_rows("test", *span)) for span in ((2,), (2, 2), (4,)))
    assert many == few + later
    with pytest.raises(ValueError, match="numbering ends at 250000"):
        next(mmbench_rows("test", 1, 250_000))


def test_prompts_are_those_of_the_training() -> None:
    """Would catch a prompt that the tiny backbone never saw, in any of the four wordings."""
    row = next(row for row in mmbench_rows("test", 9) if row["hint"] and len(shown(row)) > 2)
    question = Question("count", row["question"], "", "", (), None)
    choices = Choices(tuple(shown(row)), "ABCD".index(row["answer"]))
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", choices.options, strict=False))
    for benchmark, closing in ((MMBench(), LETTER), (MMBenchCN(), LETTER_ZH)):
        (sample,) = (s for s in benchmark.from_scenes("test", 9) if s.id == str(row["index"]))
        assert (sample.question, sample.label) == multiple_choice(question, choices, row["hint"], closing)
        assert sample.image == row["image_source"]
    for benchmark, closing in (
        (MMBench(prompt="lmms_eval"), LETTER),
        (MMBenchCN(prompt="lmms_eval"), LETTER_ZH_LMMS),
    ):
        (sample,) = (s for s in benchmark.from_scenes("test", 9) if s.id == str(row["index"]))
        assert sample.question == f"{row['hint']} {row['question']} {SEVERAL}\n{listed}\n\n{closing}"
