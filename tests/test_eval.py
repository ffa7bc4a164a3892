"""The command as a user gives it, on a small random backbone."""

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from openpyxl import load_workbook
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from blink import TokenSR, save_token_sr
from blink.runs.inputs.preset_file import write_preset
from blink.score import main as score_main
from tests.eval_runs import SMALL, command, responses, scores

pytestmark = pytest.mark.usefixtures("in_empty_folder")


@pytest.mark.parametrize("reuse", ["full", "none"])
def test_modules_are_read_once(
    reuse: str, backbone: str, modules: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
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
    backbone: str, modules: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a model without weights that each check builds anew, and once more what loads the weights."""
    made: list[object] = []
    build = LlavaForConditionalGeneration._from_config

    def counting(config: Any) -> Any:
        made.append(config)
        return build(config)

    monkeypatch.setattr(LlavaForConditionalGeneration, "_from_config", counting)
    link = in_empty_folder / "backbone"  # a name that no run of this process has used
    link.symlink_to(backbone.removeprefix("model.path="))
    command(monkeypatch, f"model.path={link}", modules, *SMALL, "layer=1-2")
    assert len(made) == 1


def test_run_writes_everything_and_comes_back(
    backbone: str,
    modules: str,
    in_empty_folder: Path,
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
    [folder] = (in_empty_folder / "outputs" / "eval").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "example.png",
        "inputs.json",
        "predictions.jsonl",
        "provenance.json",
        "scores.json",
        "timing.json",
    }
    [result] = scores(in_empty_folder)
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
    assert len(scores(in_empty_folder)) == 1


def test_layers_of_an_unknown_backbone_are_said_not_to_be_the_papers(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a checkpoint refused for want of a preset, and one scanned at another's layers without a word."""
    command(monkeypatch, backbone, *SMALL, "method=interp", "limit=2", "tau_drop=0.3")
    [found] = scores(in_empty_folder)
    assert found["policy"]["layers"] == [1]  # the middle third of four
    assert (found["policy"]["tau_exp"], found["policy"]["tau_drop"]) == (0.5, 0.3)
    assert found["sources"]["layers"].startswith("not from the paper: the middle third of 4 layers")
    assert (found["sources"]["tau_exp"], found["sources"]["tau_drop"]) == ("Policy's default", "override")


def test_parts_by_other_software_are_told(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a score over answers of two versions of torch, or of the project, that names one of them."""
    settings = (backbone, *SMALL, "method=vanilla")
    command(monkeypatch, *settings)
    [folder] = (in_empty_folder / "outputs" / "eval").iterdir()
    records = json.loads((folder / "provenance.json").read_text())
    records[0]["versions"]["torch"] = "1.0"
    (folder / "provenance.json").write_text(json.dumps(records))
    rows = (folder / "predictions.jsonl").read_text().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_text("".join(rows[:18]))
    command(monkeypatch, *settings)
    [result] = scores(in_empty_folder)
    assert "made with other software" in (warning := result["warnings"][0])
    assert f"torch 1.0 then, {torch.__version__} now" in warning
    assert [record["versions"]["torch"] for record in result["provenance"]["earlier"]] == ["1.0"]
    (folder / "scores.json").unlink()
    command(monkeypatch, *settings)
    assert scores(in_empty_folder) == [
        result | {"peak_memory_mb": scores(in_empty_folder)[0]["peak_memory_mb"]}
    ]


def test_reuse_changes_no_answer(
    backbone: str, modules: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch answers, events or an order of rows that depend on how they were computed."""
    for how in (["engine.reuse=full"], ["engine.reuse=none"], ["engine.reuse=none", "engine.batch=5"]):
        command(monkeypatch, backbone, modules, *SMALL, "layer=1-2", "tau_exp=0.4", *how)
    files = sorted((in_empty_folder / "outputs" / "eval").glob("*/predictions.jsonl"))
    runs = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    for row in (row for run in runs for row in run):
        for event in row["events"]:
            event["ratio"] = round(event["ratio"], 4)
    assert len(runs) == 3
    assert all(run == runs[0] for run in runs)
    assert {run["reuse"] for run in scores(in_empty_folder)} == {"full", "none"}


def test_fresh_starts_over_and_keeps_the_old_run(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches fresh=true as part of the run's name, or answers lost."""
    command(monkeypatch, backbone, *SMALL, "method=vanilla")
    command(monkeypatch, backbone, *SMALL, "method=vanilla", "fresh=true")
    first, second = scores(in_empty_folder)
    assert first["metrics"] == second["metrics"]
    assert (first["policy"], first["expanded"], first["events"]) == (None, 0, {})


def test_retrained_modules_are_noticed(
    backbone: str, modules: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the scores of old modules returned for new ones at the same place."""
    command(monkeypatch, backbone, modules, *SMALL, "layer=1")
    torch.manual_seed(1)
    save_token_sr({1: TokenSR(32), 2: TokenSR(32)}, in_empty_folder / "modules", backbone="b")
    with pytest.raises(SystemExit, match=r"error: .*begun with another token_sr.*fresh=true"):
        command(monkeypatch, backbone, modules, *SMALL, "layer=1")


def test_sweep_over_methods_ends_with_table_plot_and_comparison(
    backbone: str,
    modules: str,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches jobs that share a folder, a report without pairs, and Blink left attached from one job to the next."""
    sweep = ("method=interp,vanilla,blink", "tau_exp=0,1", "--multirun")
    command(monkeypatch, backbone, modules, *SMALL, "layer=1", *sweep)
    [folder] = (in_empty_folder / "outputs" / "sweeps").iterdir()
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


def test_a_run_and_a_sweep_lie_where_hydra_says(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches results below outputs/ beside an empty folder that the user named, and a sweep torn in two places."""
    settings = (backbone, *SMALL, "layer=1", "limit=4")
    command(monkeypatch, "hydra.run.dir=mine", "method=vanilla", *settings)
    assert (in_empty_folder / "mine" / "scores.json").exists()
    first = (in_empty_folder / "mine" / "scores.json").stat().st_mtime_ns
    command(monkeypatch, "hydra.run.dir=mine", "method=vanilla", *settings)
    assert (in_empty_folder / "mine" / "scores.json").stat().st_mtime_ns == first
    with pytest.raises(SystemExit, match="another configuration"):
        command(monkeypatch, "hydra.run.dir=mine", "method=interp", *settings)
    command(monkeypatch, "hydra.sweep.dir=both", "method=vanilla,interp", *settings, "--multirun")
    assert (in_empty_folder / "both" / "sweep.csv").exists()
    assert len(list((in_empty_folder / "both").glob("*/scores.json"))) == 2
    assert sorted(path.name for path in in_empty_folder.iterdir()) == ["both", "mine"]


def test_scores_of_a_file_lie_where_hydra_says(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches scores beside the answers, and an empty folder where the user wants them."""
    row = {"id": "1", "split": "random", "image": "a", "label": "yes", "response": "Yes"}
    (in_empty_folder / "answers.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr(
        sys, "argv", ["blink.score", "bench=pope", "predictions=answers.jsonl", "hydra.run.dir=there"]
    )
    score_main()
    assert [path.name for path in (in_empty_folder / "there").iterdir()] == ["answers.scores.json"]


def test_a_dashboard_that_fails_costs_nothing(
    backbone: str,
    in_empty_folder: Path,
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
    assert len(scores(in_empty_folder)) == 2
    assert len(list(in_empty_folder.rglob("sweep.csv"))) == 1
    assert not list(in_empty_folder.rglob("tracking.json"))
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("the dashboard fails (RuntimeError: the server is gone)") == 3
    command(monkeypatch, *settings)
    assert len(list(in_empty_folder.rglob("tracking.json"))) == 3


def test_a_preset_file_and_what_wins_over_it(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a preset that is not recorded, wins over the user, or is lost when the run is repeated or swept."""
    settings = {"layer": [1, 2], "tau_exp": 0.2, "tau_drop": 0.0, "patches": 3, "positions": "region"}
    path = backbone.partition("=")[2]
    write_preset(Path("p.yaml"), settings, method="interp", note="chosen", backbone=path, beats_vanilla=False)
    command(monkeypatch, backbone, *SMALL, "preset=p.yaml", "patches=2", "limit=2")
    [result] = scores(in_empty_folder)
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
    assert sorted(each["policy"]["patches"] for each in scores(in_empty_folder)) == [2, 2, 3]
    write_preset(Path("p.yaml"), settings | {"tau_exp": 0.3}, method="interp", note="other")
    with pytest.raises(SystemExit, match=r"another configuration \(tau_exp: 0.2 there, 0.3 now\)"):
        command(monkeypatch, backbone, *SMALL, "preset=p.yaml", "patches=2", "limit=2")
    Path("p.yaml").write_text("layer: 3")
    with pytest.raises(SystemExit, match="is not a preset file"):
        command(monkeypatch, backbone, *SMALL, "preset=p.yaml")


def test_answers_are_exported_for_their_authors_and_vlmevalkit(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a finished run whose answers are not written any more, one that begins anew because they are, a multirun
    whose runs write over each other, and a name that no file can have found out after the last answer.
    """
    run = (backbone, *SMALL, "method=vanilla")
    command(monkeypatch, *run)
    [folder] = (in_empty_folder / "outputs" / "eval").iterdir()
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
    assert len(list((in_empty_folder / "outputs" / "eval").iterdir())) == 3
