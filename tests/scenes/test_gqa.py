"""GQA on scenes has GQA's schema: open and yes/no questions of every kind."""

from collections import Counter

from blink.scenes.gqa import SEMANTIC, gqa_rows


def test_every_kind_is_asked_openly_and_by_yes_or_no() -> None:
    """Would catch a kind left out, and yes/no questions with mostly one answer."""
    rows = list(gqa_rows("test", 20))
    asked = Counter(row["types"]["detailed"] for row in rows)
    assert set(asked) == {"relationChoose"} | {f"{kind}Verify" for kind in SEMANTIC} | {
        f"{kind}Query" for kind in SEMANTIC if kind not in ("existence", "relation")
    }
    closed = Counter(row["answer"] for row in rows if row["types"]["structural"] == "verify")
    assert set(closed) == {"yes", "no"}
    assert 0.4 < closed["yes"] / closed.total() < 0.6
    assert all(row["answer"] not in ("yes", "no") for row in rows if row["types"]["structural"] != "verify")


def test_columns_are_those_of_the_hub() -> None:
    """Would catch ids that repeat, answers in capitals, which no prediction equals, and pictures without a name."""
    rows = list(gqa_rows("test", 15))
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({(row["imageId"], row["question"]) for row in rows}) == len(rows)
    assert {row["imageId"] for row in rows} == {f"scenes/test/{i}" for i in range(15)}
    assert all(row["answer"] == row["answer"].lower() and row["isBalanced"] for row in rows)
    assert all(row["fullAnswer"].endswith(".") for row in rows)


def test_pictures_do_not_depend_on_how_many_are_asked_for() -> None:
    """Would catch a generator shared between pictures."""
    few = [(row["id"], row["question"]) for row in gqa_rows("test", 2)]
    later = [(row["id"], row["question"]) for row in gqa_rows("test", 2, start=2)]
    assert [(row["id"], row["question"]) for row in gqa_rows("test", 4)] == few + later
