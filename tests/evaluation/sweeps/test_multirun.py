"""Experiments as a user runs them: all compose and pass the checks, and one runs to its table."""

import copy
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from blink.evaluation.planning.plan import make_plan
from blink.evaluation.planning.presets import LAYER_STUDIES, OTHER
from blink.evaluation.sweeps.experiments import Experiment, lines_of, names, read_experiment
from blink.evaluation.sweeps.multirun import sweep_of
from blink.evaluation.sweeps.paper import TABLES
from blink.runs.config.groups import CONF_DIR
from blink.runs.inputs.preset_file import with_preset, write_preset
from tests import models
from tests.eval_runs import command

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Outputs go below the directory in which the command is given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def configs() -> Iterator[None]:
    """Hydra finds the configs, as in a running command."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_first_line_is_the_command(name: str) -> None:
    """Would catch a file copied from another experiment with the other's command."""
    first = (CONF_DIR / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# python -m blink.eval experiment={name} ")
    assert first.endswith(" --multirun")


def experiment(name: str) -> Experiment:
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "experiment" / f"{name}.yaml"))
    return read_experiment(content)


@pytest.mark.slow
@pytest.mark.usefixtures("configs")
def test_every_row_passes_the_checks_on_the_shipped_backbone() -> None:
    """Would catch a row that no run could have: a layer beyond the model, a module not shipped, a misspelt key.

    Jobs are composed from a config per method: composing each anew takes Hydra a fifth of a second.
    """
    composed = {
        method: hydra.compose("eval", ["bench=pope", f"method={method}", "scenes.images=1"])
        for method in ("vanilla", "interp", "blink", "encode", "zoom")
    }
    seen = set()
    for name in EXPERIMENTS:
        lines, left_out = lines_of(experiment(name), "pope", {}, names("tiny"))
        assert left_out == []
        for line in lines:
            chosen = dict(override.split("=") for override in line.overrides)
            assert chosen.pop("bench") == "pope"
            config = copy.deepcopy(composed[chosen.pop("method", "blink")])
            config.merge_with_dotlist([f"{key}={value}" for key, value in chosen.items()])
            config = with_preset(config, line.overrides)
            if line.overrides not in seen:
                plan = make_plan(config, line.overrides)
                assert (plan.policy is None) == ("method=vanilla" in line.overrides)
            seen.add(line.overrides)
    assert len(seen) > 50


OURS = ("single_setting", "ceilings", "recommended")
"""Experiments that the paper has no table of."""


@pytest.mark.parametrize("family", [*LAYER_STUDIES, OTHER])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_rows_on_every_backbone(name: str, family: str) -> None:
    """Would catch an experiment that only the backbone it was tried on can run, and rows compared with none."""
    lines, left_out = lines_of(experiment(name), "mme", {}, names(family, 28))
    assert left_out == []
    called = [line.name for line in lines]
    assert len(set(called)) == len(called) >= 4
    assert all(other in called for line in lines for other in line.against)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in OURS])
def test_every_row_of_the_paper_finds_its_own(name: str) -> None:
    """Would catch a row renamed away from the paper's, whose value then stands beside nothing."""
    [key] = [key for key in TABLES if name == key or name.startswith(f"{key}_")]
    assert experiment(name).paper == key
    lines, _ = lines_of(experiment(name), "mme", {}, names(TABLES[key].family))
    assert set(TABLES[key].rows) <= {line.paper for line in lines}


@pytest.mark.usefixtures("configs")
def test_benchmarks_and_seeds_multiply_rows_and_share_vanilla() -> None:
    """Would catch vanilla run once per seed, and rows of one seed compared with another's."""
    found = sweep_of(("experiment=table1_main", "bench=pope,mmbench", "seed=0,1"))
    assert len(found.lines) == 2 * 2 * 4
    assert len(found.jobs) == 2 * (2 + 2 * 2)
    [line] = [line for line in found.lines if (line.name, line.bench) == ("blink, seed=1", "mmbench")]
    assert line.against == ("vanilla, seed=1", "interp, seed=1")
    assert line.overrides == ("bench=mmbench", "method=blink", "seed=1")


@pytest.mark.usefixtures("configs")
def test_layers_of_a_backbone_that_no_table_lists_follow_its_depth(llava_folder: Path) -> None:
    """Would catch an experiment refused for want of layers, or run at the tiny backbone's."""
    found = sweep_of(("experiment=table3_layer_ranges", "bench=pope", f"model.path={llava_folder}"))
    layers = [text for line in found.lines for text in line.overrides if text.startswith("layer=")]
    assert sorted(set(layers)) == ["layer=0-0", "layer=1-1", "layer=2-2", "layer=3-3"]


@pytest.mark.usefixtures("configs")
def test_two_experiments_at_once_are_refused() -> None:
    """Would catch the second experiment dropped without a word."""
    with pytest.raises(ValueError, match="one experiment at a time"):
        sweep_of(("experiment=table1_main,table2_ablation",))


def test_experiment_needs_multirun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch the backbone as it is evaluated once in place of a table."""
    with pytest.raises(SystemExit, match="error: experiment= stands for several evaluations: add --multirun"):
        command(monkeypatch, "experiment=table2_ablation")


def test_a_bad_override_starts_no_job(working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a mistake found only when its row's turn comes."""
    with pytest.raises(SystemExit, match=r"error: .*layers .77.; this model has decoder layers 0 to 15"):
        command(
            monkeypatch,
            "experiment=table7_interpolation",
            "bench=pope",
            "scenes.images=1",
            "layer=77",
            "--multirun",
        )
    assert not (working_directory / "outputs" / "eval").exists()


@pytest.mark.slow
def test_an_experiment_ends_with_its_table(
    working_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch rows that do not reach their runs, or a table that mixes them up, prints none or claims too much."""
    settings = ("bench=pope", "scenes.images=2", "logger=none", "method=interp", "bench.splits=[random]")
    command(monkeypatch, "experiment=table7_interpolation", *settings, "--multirun")
    [folder] = (working_directory / "outputs" / "sweeps").iterdir()
    assert {"table.md", "table.csv", "comparison.csv", "table.png"} <= {
        path.name for path in folder.iterdir()
    }
    shown = capsys.readouterr().out
    assert "interp w/o interp" in shown
    assert (
        "† Table 7 and these runs on POPE do not compare: backbone tiny instead of llava15_7b; scenes"
        in shown
    )
    with (folder / "table.csv").open(encoding="utf-8") as file:
        scores = [row for row in csv.DictReader(file) if row["metric"] == "f1"]
    assert [row["row"] for row in scores] == [
        "vanilla",
        "vanilla, other batches",
        "interp",
        "interp w/o interp",
    ]
    assert [row["layers"] for row in scores] == ["", "", "6 7 8 9", "6 7 8 9"]
    assert ["interpolate=false" in row["overrides"] for row in scores] == [False, False, False, True]
    assert [float(row["expanded"]) > 0 for row in scores] == [False, False, True, True]
    assert {row["unit"] for row in scores} == {"%"}
    with (folder / "comparison.csv").open(encoding="utf-8") as file:
        pairs = [(row["second"], row["first"], row["noise"]) for row in csv.DictReader(file)]
    assert pairs == [
        ("vanilla, other batches", "vanilla", "True"),
        ("interp", "vanilla", "False"),
        ("interp w/o interp", "vanilla", "False"),
        ("interp w/o interp", "interp", "False"),
    ]
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert text.startswith("# Table 7: with and without interpolation")
    assert len(list((working_directory / "outputs" / "eval").iterdir())) == 4


@pytest.mark.usefixtures("configs")
def test_rows_win_over_a_preset_and_the_command_line_over_both(tmp_path: Path) -> None:
    """Would catch a table whose rows all show the preset: what a row does not say is the preset's, what it says is its own."""
    file = tmp_path / "preset.yaml"
    settings = {"layer": [3, 4], "tau_exp": 0.31, "tau_drop": 0.2, "patches": 3, "positions": "region"}
    write_preset(file, settings, method="encode", note="n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "title: Mine\nbench: [questions]\nrows:\n  - {name: vanilla, set: [method=vanilla]}\n"
        "  - {name: a, set: [method=interp, positions=append, tau_exp=0.7]}\n  - {name: b, set: [patches=2]}\n"
    )
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    given = ("experiment=mine", f"preset={file}", "tau_drop=0.1")
    jobs = sweep_of(given, (searched,)).jobs
    found = [with_preset(hydra.compose("eval", [searched, *job]), job) for job in jobs]
    assert [
        (c.method.name, list(c.layer), c.tau_exp, c.tau_drop, c.patches, c.positions) for c in found[1:]
    ] == [
        ("interp", [3, 4], 0.7, 0.1, 3, "append"),
        ("encode", [3, 4], 0.31, 0.1, 2, "region"),
    ]
    assert found[0].method.name == "vanilla"


def test_an_experiment_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a file that the check of names finds and the sweep does not."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "title: Mine\nbench: [questions]\nrows:\n  - {name: vanilla, set: [method=vanilla]}\n"
        "  - {name: a, set: [method=interp, layer=3, tau_exp=0.7]}\n"
    )
    usual = ("scenes.images=1", "scenes.split=validation", "limit=1", "logger=none")
    command(monkeypatch, f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", *usual, "--multirun")
    [table] = Path("outputs/sweeps").glob("*/table.md")
    text = table.read_text(encoding="utf-8")
    assert "Mine" in text
    assert "a - vanilla" in text


def test_rows_of_boxes_need_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch ceilings that cannot be taken of questions without boxes, and a user's own selector=box that is dropped."""
    models.picture(0).save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "What?", "answer": "red"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row))
    given = ("experiment=ceilings", f"data.root={tmp_path}", "logger=none")
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        without = sweep_of(given)
        (tmp_path / "boxed").mkdir()
        models.picture(0).save(tmp_path / "boxed" / "a.png")
        (tmp_path / "boxed" / "questions.jsonl").write_text(json.dumps(row | {"box": [1, 2, 9, 9]}))
        boxed = sweep_of((given[0], f"data.root={tmp_path / 'boxed'}", given[2]))
    assert len(without.boxless) == 7
    assert all(name.endswith(", box on questions") for name in without.boxless)
    assert not [job for job in without.jobs if "selector=box" in job]
    assert (len(boxed.jobs), boxed.boxless) == (len(without.jobs) + 7, ())
    with pytest.raises(SystemExit, match=r"selector=box goes by the box .* none of the 1 of questions"):
        command(monkeypatch, *given, "selector=box", "--multirun")


@pytest.mark.slow
def test_an_experiment_on_each_difficulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a report that compares easy questions with hard ones, or fails over them."""
    usual = ("scenes.split=validation", "scenes.difficulty=easy,hard", "scenes.images=1", "limit=2")
    command(monkeypatch, "experiment=recommended", *usual, "logger=none", "--multirun")
    with next(Path("outputs/sweeps").glob("*/comparison.csv")).open(encoding="utf-8") as rows:
        pairs = [(row["first"], row["second"]) for row in csv.DictReader(rows)]
    assert len({pair for pair in pairs if "easy" in pair[0]}) == len(pairs) / 2
    assert all(first.rpartition("=")[2] == second.rpartition("=")[2] for first, second in pairs)
