"""MM-Vet's judge prompt to the letter, and its procedure when the judge does not say a number."""

from hashlib import sha256
from pathlib import Path

import pytest

from blink.bench.judges import Asked, ChatEndpoint, EndpointError, EndpointJudge
from blink.bench.judges.official import INSIST, PROMPT, read_score, request_text
from tests.bench.judges.server import Act, Seen, reply, serving

QUESTION = Asked("v1_1", "What is x?", "-1<AND>-5<OR>none", "x = -1")


def judge(url: str, cache: Path | None = None, parallel: int = 1, attempts: int = 2) -> EndpointJudge:
    return EndpointJudge(ChatEndpoint(url, "gpt-4-0613", attempts=attempts, first_wait=0.01), parallel, cache)


def answers(count: int) -> list[Asked]:
    return [Asked(f"v1_{i}", f"question {i}?", "yes", f"answer {i}") for i in range(count)]


def test_prompt_is_the_official_one() -> None:
    """Would catch a changed character: published scores are by this text. Seven worked rows, a line left open."""
    assert len(PROMPT) == 2290
    assert (
        sha256(PROMPT.encode()).hexdigest()
        == "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"
    )
    lines = PROMPT.split("\n")
    assert lines[1:4] == ["", "Question | Ground truth | Prediction | Correctness", "--- | --- | --- | ---"]
    assert [line.rpartition(" | ")[2] for line in lines[4:11]] == [
        "0.0",
        "0.5",
        "0.5",
        "0.5",
        "1.0",
        "0.4",
        "1.0",
    ]
    assert lines[11:] == [""]
    asked = request_text(QUESTION)
    assert asked == PROMPT + "\nWhat is x? | -1 <AND> -5 <OR> none | x = -1 | "


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ("0.5", 0.5),
        ("1", 1.0),
        ("1.0 |", 1.0),
        ("0.5\n", 0.5),
        ("0.5\n\nThe", None),
        ("The score", None),
        ("1.1", None),
        ("-0.1", None),
        ("nan", None),
        ("", None),
        (" 0.5", None),
    ],
)
def test_score_is_the_number_before_the_first_space(content: str, score: float | None) -> None:
    """Would catch a number fished out of a sentence, one out of range, and "nan" that spoils every mean."""
    assert read_score(content) == score


def test_judge_that_talks_is_asked_insistently_and_warmer(tmp_path: Path) -> None:
    """Would catch retries that ask the same thing at temperature 0 again; the fourth reply is a number here."""
    said = ["Well", "I", "0.5.", "0.3"]
    with serving(lambda seen, number: reply(said[number])) as server:
        [grade] = judge(server.url).grade([QUESTION], tmp_path)
    assert grade == (0.3, "0.3", "judge-0613")
    assert [seen.body["temperature"] for seen in server.seen] == [0.0, 0.0, 0.5, 1.0]
    assert [seen.text == request_text(QUESTION) for seen in server.seen] == [True, False, False, False]
    assert all(seen.text == request_text(QUESTION) + INSIST for seen in server.seen[1:])
    assert {seen.body["max_tokens"] for seen in server.seen} == {3}


def test_five_replies_without_a_number_are_a_zero(tmp_path: Path) -> None:
    """Would catch an endless talk with a judge that does not grade, and a sixth reply counted."""
    with serving(lambda seen, number: reply("rubbish" if number < 5 else "1.0")) as server:
        [grade] = judge(server.url).grade([QUESTION], tmp_path)
        assert grade.score == 0
        assert len(server.seen) == 5
        assert judge(server.url).grade([QUESTION], tmp_path) == [grade]
    assert len(server.seen) == 5


def test_equal_answers_are_asked_once_and_all_are_graded_in_order(tmp_path: Path) -> None:
    """Would catch grades that change places between threads, and the same text paid for twice in one run."""
    asked = answers(12)
    doubled = [*asked, *(one._replace(id=f"{one.id}b") for one in asked)]

    def graded(seen: Seen, number: int) -> Act:
        return reply(f"{int(seen.text.rpartition('answer ')[2].split(' ')[0]) / 100}")

    with serving(graded) as server:
        grades = judge(server.url, parallel=4).grade(doubled, tmp_path)
    assert [grade.score for grade in grades] == [i / 100 for i in range(12)] * 2
    assert len(server.seen) == 12


def test_server_that_dies_midway_is_asked_only_for_the_rest(tmp_path: Path) -> None:
    """Would catch grades lost or paid for again after a failure."""
    cache = tmp_path / "replies"
    with (
        serving(lambda seen, number: reply("0.5") if number < 3 else Act(500)) as server,
        pytest.raises(EndpointError, match=r"in 2 attempts.*HTTP 500"),
    ):
        judge(server.url, cache).grade(answers(8), tmp_path)
    port = int(server.url.split(":")[2].split("/")[0])
    assert len(list(cache.iterdir())) == 3
    with serving(lambda seen, number: reply("0.5"), port) as again:
        assert again.url == server.url
        grades = judge(again.url, cache).grade(answers(8), tmp_path)
    assert [grade.score for grade in grades] == [0.5] * 8
    assert len(again.seen) == 5


def test_name_says_which_model_and_where() -> None:
    """Would catch a local model that passes for OpenAI's in a result, and a password in a URL that is shown."""
    assert judge("https://api.openai.com/v1/").name == "gpt-4-0613"
    assert judge("http://me:word@localhost:8000/v1").name == "gpt-4-0613@localhost:8000"
    assert judge("https://api.openai.com/v1").caution is None
    other = EndpointJudge(ChatEndpoint("https://api.openai.com/v1", "gpt-5"))
    assert other.caution is not None
    assert "published scores are by gpt-4-0613" in other.caution
