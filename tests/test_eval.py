"""The command as a user gives it, on a small random backbone."""

import csv
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from openpyxl import load_workbook
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from blink import TokenSR, save_token_sr
from blink.eval import main
from blink.runs.config.settings import jobs_of
from blink.runs.inputs.preset_file import write_preset
from blink.score import main as score_main
from tests.bench.judges.server import Act, reply, serving

SMALL = ("scenes.images=2", "scenes.split=validation", "bench.max_new_tokens=2", "logger=none")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Outputs go below the directory in which the command is given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def backbone(llava_folder: Path) -> str:
    return f"model.path={llava_folder}"


@pytest.fixture
def modules(tmp_path: Path) -> str:
    torch.manual_seed(0)
    save_token_sr({1: TokenSR(32), 2: TokenSR(32)}, tmp_path / "modules", backbone="b")
    return f"token_sr={tmp_path / 'modules'}"


def command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """`python -m blink.eval` with these overrides, in this process."""
    monkeypatch.setattr(sys, "argv", ["blink.eval", *overrides])
    main()


def scores(root: Path) -> list[dict[str, Any]]:
    """The results of all runs below outputs/eval, in the order of their folders."""
    return [
        json.loads(path.read_text()) for path in sorted((root / "outputs" / "eval").glob("*/scores.json"))
    ]


def responses(path: Path) -> list[str]:
    return [json.loads(line)["response"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("reuse", ["full", "none"])
def test_modules_are_read_once(
    reuse: str, backbone: str, modules: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches checks that read the weights of all modules, 6.5 GB at LLaVA's width, before the engine reads them."""
    read: list[str] = []

    def counting(file: Path) -> dict[str, torch.Tensor]:
        read.append(file.name)
        return load_file(file)

    monkeypatch.setattr("blink.model.token_sr.files.load_file", counting)
    command(monkeypatch, backbone, modules, *SMALL, "layer=1-2", f"engine.reuse={reuse}")
    assert read == ["layer_01.safetensors", "layer_02.safetensors"]


def test_the_outline_is_made_once(
    backbone: str, modules: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a model without weights that each check builds anew, and once more what loads the weights."""
    made: list[object] = []
    build = LlavaForConditionalGeneration._from_config

    def counting(config: Any) -> Any:
        made.append(config)
        return build(config)

    monkeypatch.setattr(LlavaForConditionalGeneration, "_from_config", counting)
    link = working_directory / "backbone"  # a name that no run of this process has used
    link.symlink_to(backbone.removeprefix("model.path="))
    command(monkeypatch, f"model.path={link}", modules, *SMALL, "layer=1-2")
    assert len(made) == 1


def test_run_writes_everything_and_comes_back(
    backbone: str,
    modules: str,
    working_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches settings that do not reach the result, and a second run where the first should be continued."""
    overrides = (
        backbone,
        modules,
        *SMALL,
        "layer=1-2",
        "tau_exp=0.2",
        "patches=3",
        "seed=5",
        "positions=region",
    )
    command(monkeypatch, *overrides)
    [folder] = (working_directory / "outputs" / "eval").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "example.png",
        "inputs.json",
        "predictions.jsonl",
        "provenance.json",
        "scores.json",
        "timing.json",
    }
    [result] = scores(working_directory)
    assert (result["method"], result["n"], result["images"]) == ("blink", 36, 2)
    assert result["policy"]["layers"] == [1, 2]
    assert (result["policy"]["patches"], result["policy"]["seed"]) == (3, 5)
    assert result["policy"]["positions"] == "region"
    [noted] = json.loads((folder / "provenance.json").read_text())
    assert {*overrides} <= {*shlex.split(noted["command"])}
    assert result["sources"] == {"layers": "override", "tau_exp": "override", "tau_drop": "Policy's default"}
    assert result["token_sr"] == modules.removeprefix("token_sr=")
    assert result["data"] == "scenes validation, 2 pictures"
    assert result["expanded"] > 0
    trained, unread = result["warnings"]
    assert "were trained on the backbone b, and this one is" in trained
    assert unread.startswith("36 of 36 responses (100.0 %, 0 of them empty)")
    record = result["provenance"]
    assert (record["seed"], record["earlier"]) == (5, [])
    assert record["command"] == shlex.join(["python", "-m", "blink.eval", *overrides])
    assert record["versions"]["torch"] == torch.__version__
    recorded = json.loads((folder / "inputs.json").read_text())
    assert recorded == record["inputs"]
    assert {"backbone", "token_sr", "pictures", "samples", "version", "revision"} == recorded.keys()
    assert (result["empty"], result["unread"], result["unread_as"]) == (0, 36, "yes")
    assert "expanded" in capsys.readouterr().out
    predictions = (folder / "predictions.jsonl").read_bytes()
    (folder / "predictions.jsonl").write_bytes(predictions[: len(predictions) // 2])
    command(monkeypatch, *reversed(overrides))
    assert (folder / "predictions.jsonl").read_bytes() == predictions
    assert len(scores(working_directory)) == 1


def test_layers_of_an_unknown_backbone_are_said_not_to_be_the_papers(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a checkpoint refused for want of a preset, and one scanned at another's layers without a word."""
    command(monkeypatch, backbone, *SMALL, "method=interp", "limit=2", "tau_drop=0.3")
    [found] = scores(working_directory)
    assert found["policy"]["layers"] == [1]  # the middle third of four
    assert (found["policy"]["tau_exp"], found["policy"]["tau_drop"]) == (0.5, 0.3)
    assert found["sources"]["layers"].startswith("not from the paper: the middle third of 4 layers")
    assert (found["sources"]["tau_exp"], found["sources"]["tau_drop"]) == ("Policy's default", "override")


def test_parts_by_other_software_are_told(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a score over answers of two versions of torch, or of the project, that names one of them."""
    settings = (backbone, *SMALL, "method=vanilla")
    command(monkeypatch, *settings)
    [folder] = (working_directory / "outputs" / "eval").iterdir()
    records = json.loads((folder / "provenance.json").read_text())
    records[0]["versions"]["torch"] = "1.0"
    (folder / "provenance.json").write_text(json.dumps(records))
    rows = (folder / "predictions.jsonl").read_text().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_text("".join(rows[:18]))
    command(monkeypatch, *settings)
    [result] = scores(working_directory)
    assert "made with other software" in (warning := result["warnings"][0])
    assert f"torch 1.0 then, {torch.__version__} now" in warning
    assert [record["versions"]["torch"] for record in result["provenance"]["earlier"]] == ["1.0"]
    (folder / "scores.json").unlink()
    command(monkeypatch, *settings)
    assert scores(working_directory) == [
        result | {"peak_memory_mb": scores(working_directory)[0]["peak_memory_mb"]}
    ]


def test_reuse_changes_no_answer(
    backbone: str, modules: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch answers, events or an order of rows that depend on how they were computed."""
    for reuse in ("full", "none"):
        command(monkeypatch, backbone, modules, *SMALL, "layer=1-2", "tau_exp=0.4", f"engine.reuse={reuse}")
    files = sorted((working_directory / "outputs" / "eval").glob("*/predictions.jsonl"))
    full, none = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    for row in (*full, *none):
        for event in row["events"]:
            event["ratio"] = round(event["ratio"], 4)
    assert full == none
    assert {run["reuse"] for run in scores(working_directory)} == {"full", "none"}


def test_free_answers_are_graded_and_the_judge_is_named(
    backbone: str,
    working_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch answers left ungraded, a judge that the table does not name, and graded rows that do not come back."""
    overrides = (backbone, *SMALL, "bench=mmvet", "method=vanilla")
    command(monkeypatch, *overrides)
    [result] = scores(working_directory)
    assert result["version"] == "mmvet-1, judge local-1"
    assert result["edition"] == "generated: scenes validation, 2 pictures"
    assert "mmvet-1, judge local-1" in capsys.readouterr().out
    [path] = (working_directory / "outputs" / "eval").glob("*/predictions.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {row["judge"] for row in rows} == {"local-1"}
    assert all(type(row["correct"]) is bool for row in rows)
    (path.parent / "scores.json").unlink()
    command(monkeypatch, *overrides)
    assert scores(working_directory)[0]["metrics"] == result["metrics"]


def test_judge_without_its_key_stops_before_any_answer(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a key that is missed only after hours of answering, and one asked for where nobody judges."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit, match="error: the judge needs a key"):
        command(monkeypatch, backbone, *SMALL, "bench=mmvet", "method=vanilla", "judge=endpoint")
    assert not (working_directory / "outputs").exists()
    command(monkeypatch, backbone, *SMALL, "limit=2", "method=vanilla", "judge=endpoint")
    assert scores(working_directory)[0]["edition"].startswith("the first 2 of 36 questions of scenes")


def test_grades_of_other_questions_stop_before_any_answer(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a file of grades that does not fit and is read only after hours of answering."""
    grades = working_directory / "grades.json"
    grades.write_text('{"v1_0": {"model": ["gpt"], "content": ["1.0"], "score": [1.0]}}', encoding="utf-8")
    judge = ("judge=grades", f"judge.file={grades}")
    with pytest.raises(SystemExit, match=r"error: .*grades.json has no grade for \d+ of \d+ answers"):
        command(monkeypatch, backbone, *SMALL, "bench=mmvet", "method=vanilla", *judge)
    assert not (working_directory / "outputs").exists()


def test_judge_that_stays_away_costs_no_answer(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a traceback where the judge fails for good, and questions answered again once it is back."""
    settings = (backbone, *SMALL, "bench=mmvet", "method=vanilla", "limit=2", "judge=endpoint")
    patience = ("judge.key_variable=null", "judge.attempts=1", "judge.first_wait=0.01")
    with serving(lambda seen, number: Act(503)) as server:
        asked = (*settings, *patience, f"judge.base_url={server.url}")
        with pytest.raises(SystemExit, match=r"error: the judge failed: .*HTTP 503.*All 2 answers.*are kept"):
            command(monkeypatch, *asked)
    [path] = (working_directory / "outputs" / "eval").glob("*/predictions.jsonl")
    before = responses(path)
    port = int(server.url.split(":")[2].split("/")[0])
    monkeypatch.setattr(
        "blink.evaluation.answering.answerers.load_answerer",
        lambda plans: pytest.fail("questions are answered again"),
    )
    with serving(lambda seen, number: reply("0.5"), port):
        command(monkeypatch, *asked)
    assert responses(path) == before
    assert scores(working_directory)[0]["metrics"]["total"] == 50


def test_fresh_starts_over_and_keeps_the_old_run(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches fresh=true as part of the run's name, or answers lost."""
    command(monkeypatch, backbone, *SMALL, "method=vanilla")
    command(monkeypatch, backbone, *SMALL, "method=vanilla", "fresh=true")
    first, second = scores(working_directory)
    assert first["metrics"] == second["metrics"]
    assert (first["policy"], first["expanded"], first["events"]) == (None, 0, {})


def test_retrained_modules_are_noticed(
    backbone: str, modules: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the scores of old modules returned for new ones at the same place."""
    command(monkeypatch, backbone, modules, *SMALL, "layer=1")
    torch.manual_seed(1)
    save_token_sr({1: TokenSR(32), 2: TokenSR(32)}, working_directory / "modules", backbone="b")
    with pytest.raises(SystemExit, match=r"error: .*begun with another token_sr.*fresh=true"):
        command(monkeypatch, backbone, modules, *SMALL, "layer=1")


def test_sweep_over_methods_ends_with_table_plot_and_comparison(
    backbone: str,
    modules: str,
    working_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches jobs that share a folder, a report without pairs, and Blink left attached from one job to the next."""
    sweep = ("method=interp,vanilla,blink", "tau_exp=0,1", "--multirun")
    command(monkeypatch, backbone, modules, *SMALL, "layer=1", *sweep)
    [folder] = (working_directory / "outputs" / "sweeps").iterdir()
    assert {"sweep.csv", "sweep.png", "comparison.csv"} <= {path.name for path in folder.iterdir()}
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["tau_exp"]) for row in rows] == [
        (method, tau) for method in ("interp", "vanilla", "blink") for tau in ("0", "1")
    ]
    assert [float(row["expanded"]) for row in rows] == [1, 0, 0, 0, 1, 0]
    assert len({row["folder"] for row in rows}) == 6
    never = [row["f1"] for row in rows if float(row["expanded"]) == 0]
    assert len(set(never)) == 1
    with (folder / "comparison.csv").open() as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 6
    assert all(pair["gained"] == pair["lost"] == "0" for pair in pairs if pair["tau_exp"] == "1")
    assert "McNemar" in capsys.readouterr().out


def test_sweep_with_one_bad_point_starts_no_job(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a mistake in the last point found after hours on the first ones."""
    with pytest.raises(SystemExit, match=r"error: tau_exp=1.7: expected a number in \[0, 1\]"):
        command(monkeypatch, backbone, *SMALL, "method=interp", "layer=1", "tau_exp=0.5,1.7", "--multirun")
    assert not (working_directory / "outputs" / "eval").exists()


@pytest.mark.parametrize(
    ("swept", "message"),
    [("limit=1,x", "error: limit='x'"), ("tau_expp=0.1,0.2", "error: .*tau_expp")],
)
def test_sweep_with_a_mistyped_point_starts_no_job(
    backbone: str, swept: str, message: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check whose failure Hydra reports as a warning before it starts the first job."""
    with pytest.raises(SystemExit, match=message):
        command(monkeypatch, backbone, *SMALL, "method=vanilla", swept, "--multirun")
    assert not (working_directory / "outputs" / "eval").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("layer=4",), "layers .4.; this model has decoder layers 0 to 3"),
        (("layer=5-2",), "run backwards"),
        (("layer=1", "tau_exp=-0.1"), "tau_exp=-0.1: expected a number in"),
        (("layer=1", "tau_drop=2"), "tau_drop=2: expected a number in"),
        (("layer=1", "tau_exp=high"), "tau_exp='high': expected a number in"),
        (("layer=1", "patches=1"), "patches=1: expected a whole number of at least 2"),
        (("layer=1", "patches=7"), "patches=7 does not fit the 6 x 6 grid"),
        (("layer=1", "saliency=gradient"), "saliency='gradient': expected one of attention"),
        (("layer=1", "method=blink"), "method=blink needs TokenSR modules"),
        (
            ("layer=1", "method=blink", "token_sr=/missing"),
            "token_sr='/missing' is neither a folder nor a hub id",
        ),
        (("layer=1", "data.root=/missing"), "data.root=/missing is not a folder"),
        (("layer=1", "data=local"), "data.root"),
        (("layer=1", "limit=0"), "limit=0: expected a whole number of at least 1"),
        (("layer=1", "limit=1.5"), "limit=1.5: expected a whole number of at least 1"),
        (("layer=1", "engine.reuse=some"), "engine.reuse='some': expected one of full, none"),
        (("layer=1", "engine.memory_gb=0"), "engine.memory_gb=0: expected a number above 0"),
        (("layer=1", "engine.memory_gb=x"), "engine.memory_gb='x': expected a number above 0"),
        (("layer=1", "scenes.images=x"), "scenes.images='x': expected a whole number"),
        (("layer=1", "scenes.images=1000001"), "scenes.images=1000001: a split has 1,000,000 pictures"),
        (
            ("layer=1", "scenes.difficulty=hart"),
            "scenes.difficulty='hart': expected one of easy, ordinary, hard",
        ),
        (("layer=1", "data=hub", "data.split=val"), "data.split: only blink.train reads that"),
        (("layer=1", "data=hub", "data.column=a", "data.name=b"), "data.column, data.name: only blink.train"),
        (("layer=1", "data=hub", "data.id=a/b", "data.root=c"), "data.root=c and data.id=a/b are both given"),
        (("layer=1", "model.family=llava15"), "model.family='llava15': expected one of llava15_7b, .*tiny"),
        (("model.family=llava15_7b",), "has 4 decoder layers, and .*=llava15_7b are .* 32; .* layer=2"),
        (("layer=1", "model.pad=1"), "model.pad=1: expected one of True, False, None"),
        (("layer=1", "model.max_pixels=5000"), "model.max_pixels=5000 is for models .* 'llava'"),
        (("layer=1", "model.min_pixels=few"), "model.min_pixels='few': expected a whole number"),
        (("layer=1", "scenes.split=[test]"), "scenes.split=.'test'.: expected a text"),
        (
            ("layer=1", "bench.max_new_tokens=99999999"),
            "bench.max_new_tokens=99999999: the backbone's context has 2,048 tokens",
        ),
        (("layer=1", "model.device=meta"), "model.device=meta: this machine has 0 such devices"),
        (("layer=1", "model.device=cpu:3"), "model.device=cpu:3: this machine has 1 such devices"),
        (("layer=1", "bench.max_new_tokens=0"), "bench.max_new_tokens=0: expected a whole number"),
        (("layer=1", "bench.splits=5"), "POPE splits 5: choose one or more of adversarial"),
        (
            ("layer=1", "bench.splits=[[random]]"),
            "bench.splits=.*: expected a text, a whole number or a list",
        ),
        (("layer=1", "data.root=[a,b]"), "data.root=.'a', 'b'.: expected a text"),
        (("layer=1", "prompt=mine"), "prompt='mine': expected one of llava, lmms_eval"),
        (("layer=1", "fresh=maybe"), "fresh='maybe': expected true or false"),
        (("layer=1", "fresh=1"), "fresh=1: expected true or false"),
        (("layer=1", "model.path=null"), "model.path=None: expected a text"),
        (("layer=1", "model.dtype=foo"), "model.dtype='foo': expected one of float32"),
        (("layer=1", "model.device=foo"), "model.device='foo': expected auto, cpu, cuda"),
        (("layer=1", "model.device=cuda:99"), "model.device=cuda:99: this machine has"),
        (
            ("layer=1", "model.attn_implementation=foo"),
            "attn_implementation='foo': expected one of eager, sdpa",
        ),
        (("layer=1", "interpolate=maybe"), "interpolate='maybe': expected true or false"),
        (("layer=1", "selector=boxes"), "selector='boxes': expected one of saliency, random, box"),
        (("layer=1", "method=encode", "interpolate=false"), "source='encode' with interpolate=False"),
        (("layer=1", "positions=beside"), "positions='beside': expected one of append, region"),
        (("method=vanilla", "tau_exp=7"), r"tau_exp=7: expected a number in \[0, 1\]"),
        (("method=vanilla", "layer=99"), "layers .99.; this model has decoder layers 0 to 3"),
        (("layer=1", "bench.splits=[often]"), "choose one or more of adversarial"),
        (("layer=1", "model.template=chatml"), "unknown prompt template 'chatml'"),
        (("layer=1", "+tau=0.5"), "unknown key 'tau'"),
    ],
)
def test_mistakes_are_one_line_before_any_work(
    backbone: str,
    overrides: tuple[str, ...],
    message: str,
    working_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a traceback for a user's mistake, and one that is found after the weights are loaded."""
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as caught:
        command(monkeypatch, backbone, *SMALL, "method=interp", *overrides)
    assert "\n" not in str(caught.value)
    assert not (working_directory / "outputs").exists()


def test_unknown_key_is_one_line(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a misspelt key that is ignored."""
    with pytest.raises(SystemExit, match=r"^error: unknown key 'tau_expp' \(did you mean tau_exp"):
        command(monkeypatch, backbone, "tau_expp=0.5")


def test_help_names_the_keys_and_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a help page that lost its template."""
    with pytest.raises(SystemExit):
        command(monkeypatch, "--help")
    shown = capsys.readouterr().out
    assert all(
        word in shown
        for word in ("tau_exp", "method: blink, encode, interp, vanilla, zoom", "--multirun", "Examples")
    )


def test_jobs_are_those_of_hydras_sweeper() -> None:
    """Catches lists taken for sweeps and ranges left unexpanded."""
    assert list(jobs_of(["layer=[1,2],3", "patches=range(2,4)", "seed=1"])) == [
        ["layer=[1,2]", "patches=2", "seed=1"],
        ["layer=[1,2]", "patches=3", "seed=1"],
        ["layer=3", "patches=2", "seed=1"],
        ["layer=3", "patches=3", "seed=1"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("method=vanilla,interp", "--multirun")])
@pytest.mark.parametrize("reuse", ["full", "none"])
def test_a_damaged_backbone_has_no_score(
    reuse: str,
    sweep: tuple[str, ...],
    llava_folder: Path,
    working_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches empty answers that POPE counts as right: a norm of nan gave F1 80."""
    damaged = shutil.copytree(llava_folder, working_directory / "damaged")
    [file] = damaged.glob("*.safetensors")
    weights = load_file(file)
    [norm] = [name for name in weights if name.endswith("model.norm.weight")]
    weights[norm][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    settings = [f"model.path={damaged}", *SMALL, "layer=1", f"engine.reuse={reuse}"]
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, *settings, *(sweep or ["method=vanilla"]))
    said = f"{stopped.value.code}{capsys.readouterr().err}"
    assert "final norm, question" in said
    assert not list(working_directory.rglob("scores.json"))
    assert not list(working_directory.rglob("predictions.jsonl"))


def test_a_run_and_a_sweep_lie_where_hydra_says(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches results below outputs/ beside an empty folder that the user named, and a sweep torn in two places."""
    settings = (backbone, *SMALL, "layer=1", "limit=4")
    command(monkeypatch, "hydra.run.dir=mine", "method=vanilla", *settings)
    assert (working_directory / "mine" / "scores.json").exists()
    first = (working_directory / "mine" / "scores.json").stat().st_mtime_ns
    command(monkeypatch, "hydra.run.dir=mine", "method=vanilla", *settings)
    assert (working_directory / "mine" / "scores.json").stat().st_mtime_ns == first
    with pytest.raises(SystemExit, match="another configuration"):
        command(monkeypatch, "hydra.run.dir=mine", "method=interp", *settings)
    command(monkeypatch, "hydra.sweep.dir=both", "method=vanilla,interp", *settings, "--multirun")
    assert (working_directory / "both" / "sweep.csv").exists()
    assert len(list((working_directory / "both").glob("*/scores.json"))) == 2
    assert sorted(path.name for path in working_directory.iterdir()) == ["both", "mine"]


def test_scores_of_a_file_lie_where_hydra_says(
    working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches scores beside the answers, and an empty folder where the user wants them."""
    row = {"id": "1", "split": "random", "image": "a", "label": "yes", "response": "Yes"}
    (working_directory / "answers.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr(
        sys, "argv", ["blink.score", "bench=pope", "predictions=answers.jsonl", "hydra.run.dir=there"]
    )
    score_main()
    assert [path.name for path in (working_directory / "there").iterdir()] == ["answers.scores.json"]


def test_a_dashboard_that_fails_costs_nothing(
    backbone: str,
    working_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch answers that are lost to W&B, and a run that counts as logged and so is never shown there."""

    def fail(*_: Any) -> None:
        raise RuntimeError("the server is gone")

    settings = [backbone, *SMALL[:-1], "logger=csv", "method=vanilla,interp", "layer=1", "--multirun"]
    with monkeypatch.context() as patched:
        patched.setattr("blink.evaluation.dashboard.log_result", fail)
        patched.setattr("blink.evaluation.sweeps.multirun.log_sweep", fail)
        command(patched, *settings)
    assert len(scores(working_directory)) == 2
    assert len(list(working_directory.rglob("sweep.csv"))) == 1
    assert not list(working_directory.rglob("tracking.json"))
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("the dashboard fails (RuntimeError: the server is gone)") == 3
    command(monkeypatch, *settings)
    assert len(list(working_directory.rglob("tracking.json"))) == 3


def test_a_preset_file_and_what_wins_over_it(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a preset that is not recorded, wins over the user, or is lost when the run is repeated or swept."""
    settings = {"layer": [1, 2], "tau_exp": 0.2, "tau_drop": 0.0, "patches": 3, "positions": "region"}
    path = backbone.partition("=")[2]
    write_preset(Path("p.yaml"), settings, method="interp", note="chosen", backbone=path, beats_vanilla=False)
    command(monkeypatch, backbone, *SMALL, "preset=p.yaml", "patches=2", "limit=2")
    [result] = scores(working_directory)
    policy, sources = result["policy"], result["sources"]
    assert result["method"] == "interp"
    assert (policy["layers"], policy["tau_exp"], policy["patches"], policy["positions"]) == (
        [1, 2],
        0.2,
        2,
        "region",
    )
    assert (sources["layers"], sources["positions"]) == ("preset p.yaml", "preset p.yaml")
    assert "patches" not in sources
    assert result["provenance"]["inputs"]["preset"]
    assert any("method=vanilla is recommended" in warning for warning in result["warnings"])
    [folder] = Path("outputs/eval").iterdir()
    command(monkeypatch, f"rerun={folder}", "logger=none")
    command(monkeypatch, backbone, *SMALL, "preset=p.yaml", "limit=2", "patches=2,3", "--multirun")
    assert sorted(each["policy"]["patches"] for each in scores(working_directory)) == [2, 2, 3]
    write_preset(Path("p.yaml"), settings | {"tau_exp": 0.3}, method="interp", note="other")
    with pytest.raises(SystemExit, match=r"another configuration \(tau_exp: 0.2 there, 0.3 now\)"):
        command(monkeypatch, backbone, *SMALL, "preset=p.yaml", "patches=2", "limit=2")
    Path("p.yaml").write_text("layer: 3")
    with pytest.raises(SystemExit, match="is not a preset file"):
        command(monkeypatch, backbone, *SMALL, "preset=p.yaml")


def test_answers_are_exported_for_their_authors_and_vlmevalkit(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a finished run whose answers are not written any more, one that begins anew because they are, a multirun
    whose runs write over each other, and a name that no file can have found out after the last answer.
    """
    run = (backbone, *SMALL, "method=vanilla")
    command(monkeypatch, *run)
    [folder] = (working_directory / "outputs" / "eval").iterdir()
    begun = (folder / "predictions.jsonl").stat().st_mtime_ns
    command(monkeypatch, *run, "export=one", "export_name=m")
    assert sorted(path.name for path in Path("one").iterdir())[-1] == "m_POPE.xlsx"
    sheet = load_workbook(Path("one") / "m_POPE.xlsx").active
    found = [row[-1] or "" for row in sheet.iter_rows(min_row=2, values_only=True)]
    assert found == responses(folder / "predictions.jsonl")
    assert (folder / "predictions.jsonl").stat().st_mtime_ns == begun
    swept = (backbone, *SMALL, "method=vanilla,interp", "layer=1", "export=all", "--multirun")
    command(monkeypatch, *swept)
    files = sorted(path.relative_to("all") for path in Path("all").rglob("*.xlsx"))
    name = Path(backbone.partition("=")[2]).name
    assert [file.name for file in files] == [f"{name}-interp_POPE.xlsx", f"{name}-vanilla_POPE.xlsx"]
    assert len({file.parent for file in files}) == 2
    with pytest.raises(SystemExit):
        command(monkeypatch, backbone, *SMALL, "method=interp", "layer=2", "export=bad", "export_name=a/b")
    assert len(list((working_directory / "outputs" / "eval").iterdir())) == 3
