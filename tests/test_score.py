"""The command as a user gives it: existing answers scored, graded and exported, with no model."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from blink.runs.files import short_digest
from blink.score import main
from tests.bench.judges.server import Act, reply, serving

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"

POPE = [
    {"id": f"{split}/{i}", "split": split, "image": f"{i}.jpg", "label": label, "response": "Yes"}
    for split in ("adversarial", "popular", "random")
    for i, label in enumerate(("yes", "no"))
]
MMVET = [
    {
        "id": f"v1_{i}",
        "image": f"{i}.png",
        "question": f"What is {i}?",
        "label": "a cat<AND>a dog",
        "response": response,
        "capability": ["rec"],
    }
    for i, response in enumerate(("a dog", "a cat and a dog", "a bird"))
]


pytestmark = pytest.mark.usefixtures("in_empty_folder")


def write(rows: list[dict[str, Any]], name: str = "answers.jsonl") -> Path:
    path = Path(name)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


def command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """`python -m blink.score` with these overrides, in this process."""
    monkeypatch.setattr(sys, "argv", ["blink.score", *overrides])
    main()


def result(name: str = "answers.scores.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    return found


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is not there")
def test_published_answers_give_the_published_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch any slip between a file and its scores: LLaVA-1.5-13B's own answers give its own POPE."""
    path = GOLDEN / "pope_llava-v1.5-13b.jsonl.gz"
    command(monkeypatch, "bench=pope", f"predictions={path}", "output=scores.json")
    found = result("scores.json")
    rounded = {name: round(value, 2) for name, value in found["metrics"].items()}
    assert (rounded["random_f1"], rounded["popular_f1"], rounded["adversarial_f1"]) == (87.14, 86.25, 84.46)
    assert rounded["f1"] == 85.95
    assert (found["n"], found["images"], found["warnings"]) == (8910, 500, [])
    assert found["edition"] == "LLaVA's, with 2,910 random questions"
    shown = capsys.readouterr().out
    assert "85.95 [" in shown
    assert "edition: LLaVA's" in shown


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is not there")
def test_published_answers_give_the_published_scienceqa(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a slip in reading letters: LLaVA-1.5-13B's own answers are right 1445 times in 2017."""
    path = GOLDEN / "scienceqa-img_llava-v1.5-13b.jsonl.gz"
    command(monkeypatch, "bench=scienceqa", f"predictions={path}", "output=scores.json", "export=submission")
    found = result("scores.json")
    assert found["metrics"]["accuracy"] == pytest.approx(100 * 1445 / 2017)
    assert (found["n"], found["edition"]) == (2017, "IMG test")
    submitted = json.loads(Path("submission/scienceqa_result.json").read_text(encoding="utf-8"))
    assert (submitted["correct"], submitted["count"]) == (1445, 2017)


def test_scores_lie_beside_the_file_and_never_on_a_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch the result of a finished evaluation, with its policy and costs, written over."""
    Path("scores.json").write_text("{}", encoding="utf-8")
    write(POPE, "predictions.jsonl.gz")
    command(monkeypatch, "bench=pope", "predictions=predictions.jsonl.gz")
    assert Path("scores.json").read_text(encoding="utf-8") == "{}"
    found = result("predictions.scores.json")
    assert (found["benchmark"], found["n"], found["metrics"]["accuracy"]) == ("pope", 6, 50)
    assert (found["expanded"], found["events"], found["edition"]) == (None, None, None)
    assert "6 rows are no known edition of pope" in found["warnings"][0]
    record = found["provenance"]
    assert record["command"] == "python -m blink.score bench=pope predictions=predictions.jsonl.gz"
    assert record["inputs"]["predictions"] == short_digest(Path("predictions.jsonl.gz").read_bytes())


def test_rows_of_an_evaluation_keep_what_they_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch events of a run lost, and scenes warned about as a broken edition."""
    event = {"layer": 3, "ratio": 0.6, "region": 1, "action": "expand"}
    rows = [
        row | {"events": [event] if i < 3 else [], "image": f"scenes/test/{i}"} for i, row in enumerate(POPE)
    ]
    write(rows)
    command(monkeypatch, "bench=pope", "predictions=answers.jsonl")
    found = result()
    assert (found["expanded"], found["edition"], found["warnings"]) == (0.5, "generated: scenes", [])
    assert found["events"] == {"3": {"expand": 3, "keep": 0, "drop": 0}}


def test_answers_are_graded_locally_unless_they_have_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch scores in the file ignored, and a judge that the result does not name."""
    write(MMVET)
    command(monkeypatch, "bench=mmvet", "predictions=answers.jsonl")
    assert result()["metrics"]["total"] == pytest.approx(50)
    assert result()["version"] == "mmvet-1, judge local-1"
    write([row | {"score": 0.9} for row in MMVET])
    command(monkeypatch, "bench=mmvet", "predictions=answers.jsonl")
    assert result()["metrics"]["total"] == pytest.approx(90)
    assert result()["version"] == "mmvet-1, judge unnamed"
    write([row | {"score": 0.8, "judge": "gpt-4-0613"} for row in MMVET])
    command(monkeypatch, "bench=mmvet", "predictions=answers.jsonl", "prompt=lmms_eval")
    assert result()["version"] == "mmvet-1+lmms_eval, judge gpt-4-0613"


def test_endpoint_grades_over_local_scores_and_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch judge=endpoint without effect on a file that blink.eval graded locally, and a key without effect."""
    write([row | {"score": 0.0, "judge": "local-1"} for row in MMVET])
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with serving(lambda seen, number: Act(500) if number == 1 else reply("0.6")) as server:
        overrides = (
            "bench=mmvet",
            "predictions=answers.jsonl",
            "judge=endpoint",
            f"judge.base_url={server.url}",
            "judge.key_variable=JUDGE_KEY",
            "judge.first_wait=0.01",
        )
        command(monkeypatch, *overrides)
        command(monkeypatch, *overrides)
    assert len(server.seen) == 4
    assert {seen.headers["authorization"] for seen in server.seen} == {"Bearer secret"}
    assert result()["metrics"]["total"] == pytest.approx(60)
    assert result()["version"].startswith("mmvet-1, judge gpt-4-0613@127.0.0.1:")
    assert len(list(Path("outputs/judge").iterdir())) == 3


def test_endpoint_that_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a traceback, and scores written without grades."""
    write(MMVET)
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with (
        serving(lambda seen, number: Act(401, b"wrong key")) as server,
        pytest.raises(SystemExit, match=r"^error: .*refuses, HTTP 401.*wrong key"),
    ):
        command(
            monkeypatch,
            "bench=mmvet",
            "predictions=answers.jsonl",
            "judge=endpoint",
            f"judge.base_url={server.url}",
        )
    assert not Path("answers.scores.json").exists()


def test_grades_file_and_export_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch exported grades that judge=grades cannot read, and answers that are not the official file."""
    write(MMVET)
    command(monkeypatch, "bench=mmvet", "predictions=answers.jsonl", "export=submission")
    names = sorted(path.name for path in Path("submission").iterdir())
    assert names == ["blink_MMVet.xlsx", "mm-vet_answers.json", "mm-vet_grades.json"]
    answers = json.loads(Path("submission/mm-vet_answers.json").read_text(encoding="utf-8"))
    assert answers == {"v1_0": "a dog", "v1_1": "a cat and a dog", "v1_2": "a bird"}
    grades = "judge.file=submission/mm-vet_grades.json"
    command(monkeypatch, "bench=mmvet", "predictions=answers.jsonl", "judge=grades", grades)
    assert result()["metrics"]["total"] == pytest.approx(50)
    assert "nothing in it shows that these answers" in " ".join(result()["warnings"])


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        (POPE, (), "say whose rows these are with bench=, one of"),
        (POPE, ("bench=pope", "export=e", "export_name=a/b"), "export_name='a/b'"),
        (POPE, ("bench=pope", "export=xlsx"), "export=xlsx: expected a folder"),
        (POPE, ("bench=pope", "export=mine/a.csv"), "export=mine/a.csv: expected a folder"),
        (POPE, ("bench=pope", "predictions=null"), "say which rows to score with predictions="),
        (POPE, ("bench=pope", "predictions=???"), "predictions must be given: predictions=VALUE"),
        (MMVET, ("bench=mmvet", "judge=grades"), "judge.file must be given: judge.file=VALUE"),
        (POPE, ("bench=pope", "predictions=gone.jsonl"), "predictions=gone.jsonl is not a file"),
        ([*POPE, POPE[0]], ("bench=pope",), "1 row ids come more than once: adversarial/0"),
        (
            [POPE[0] | {"split": "hard"}],
            ("bench=pope",),
            "adversarial/0 is of split 'hard'; POPE has adversarial",
        ),
        (MMVET, ("bench=pope",), "row v1_0 lacks 'split', which pope needs"),
        (POPE, ("bench=mmvet",), "row adversarial/0 lacks 'capability', which mmvet needs"),
        (POPE, ("bench=pope", "prompt=mine"), "prompt='mine': expected one of llava, lmms_eval"),
        (POPE, ("bench=pope", "output=5"), "output=5: expected a path"),
        (POPE, ("bench=pope", "bench.max_new_tokens=a"), "bench.max_new_tokens='a': expected a whole number"),
        (POPE, ("bench=pope", "bench.hub_id=5"), "bench.hub_id=5: expected a text"),
        (POPE, ("bench=pope", "bench.revision=[a]"), r"bench.revision=\['a'\]: expected a text"),
        (POPE, ("bench=pope", "output=answers.jsonl"), "output=answers.jsonl is the file of predictions"),
        (POPE, ("bench=pope", "+limit=5"), "unknown key 'limit'"),
        ([MMVET[0] | {"score": 1}, MMVET[1]], ("bench=mmvet",), "1 rows have a score and 1 have none"),
        (
            [MMVET[0] | {"score": 1, "judge": "a"}, MMVET[1] | {"score": 1, "judge": "b"}],
            ("bench=mmvet",),
            r"the scores are of several judges \(a, b\)",
        ),
        (
            [MMVET[0] | {"question": None}],
            ("bench=mmvet",),
            "answers.jsonl: .*v1_0 cannot be graded without its question",
        ),
        (MMVET, ("bench=mmvet", "judge=endpoint"), "set the environment variable OPENAI_API_KEY"),
        (
            MMVET,
            ("bench=mmvet", "judge=grades", "judge.file=gone.json"),
            "judge.file=gone.json is not a file",
        ),
    ],
)
def test_mistakes_are_one_line(
    rows: list[dict[str, Any]], overrides: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a traceback for a user's mistake, and scores of a file that cannot be scored."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write(rows)
    given = (
        overrides
        if any("predictions" in one for one in overrides)
        else (*overrides, "predictions=answers.jsonl")
    )
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as caught:
        command(monkeypatch, *given)
    assert "\n" not in str(caught.value)
    assert not Path("answers.scores.json").exists()
    assert Path("answers.jsonl").read_text().count("\n") == len(rows)


def test_help_names_keys_and_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a help page that asks for a benchmark before it shows which there are."""
    with pytest.raises(SystemExit):
        command(monkeypatch, "--help")
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in ("mmvet", "judge: endpoint, given, grades, local", "export", "Examples")
    )
