"""The command as a user gives it, on a small random backbone."""

import csv
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from blink.eval import main as eval_main
from blink.evaluation.answering.answerers import BackboneAnswerer
from blink.evaluation.answering.predict import predict
from blink.evaluation.answering.shares import Settings
from blink.evaluation.tuning.passes import Passes
from blink.evaluation.tuning.plan import HELD_OUT, SEARCH, check_split, make_plan
from blink.evaluation.tuning.space import VANILLA
from blink.runs.config.groups import CONF_DIR
from blink.runs.inputs.preset_file import read_preset
from blink.runs.parallel.team import Team
from blink.runs.signals import Stopped
from blink.tune import main
from tests.crash import kills
from tests.processes import python

SMALL = ("scenes.images=4", "trials=6", "batch=3", "finalists=2", "space.longest=2")


pytestmark = pytest.mark.usefixtures("in_empty_folder")


def command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    """`python -m blink.tune` with these overrides, in this process; its folder."""
    monkeypatch.setattr(sys, "argv", ["blink.tune", *overrides])
    main()
    return max(Path("outputs/tune").iterdir(), key=lambda path: path.stat().st_mtime)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_search_and_its_preset(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a step that is left out, questions searched on among those held out, and a preset that nothing takes."""
    folder = command(monkeypatch, backbone, *SMALL)
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        *("config.yaml", "provenance.json", "report.html", "look.csv", "trials.csv", "finalists.csv"),
        *("choice.json", "preset.yaml"),
    }
    look, trials, finalists = (table(folder / f"{name}.csv") for name in ("look", "trials", "finalists"))
    assert [(row["patches"], row["layer"]) for row in look] == [(p, str(n)) for p in "23" for n in range(4)]
    assert all(row["right"] for row in look)
    assert [row["trial"] for row in trials] == [str(number) for number in range(6)]
    assert len(finalists) == 2
    rows: dict[str, set[str]] = {}
    for half in ("search", "held_out"):
        for path in (folder / "answers" / half / "questions").glob("*/predictions.jsonl"):
            for line in path.read_text().splitlines():
                rows.setdefault(half, set()).add(json.loads(line)["image"])
    assert rows == {
        "search": {"scenes/validation/hard/0", "scenes/validation/hard/2"},
        "held_out": {"scenes/validation/hard/1", "scenes/validation/hard/3"},
    }
    choice = json.loads((folder / "choice.json").read_text())
    assert not choice["beats_vanilla"]
    assert choice["method"] == "vanilla"
    assert choice["provenance"]["inputs"]["samples"]
    page = (folder / "report.html").read_text()
    assert "Recommended: the backbone as it is (method=vanilla)" in page
    assert page.count("data:image/png;base64,") == 2
    found = read_preset(folder / "preset.yaml")
    assert found.beats_vanilla is False
    sides = (backbone, "bench=pope", "limit=1", "scenes.images=1", "bench.max_new_tokens=2", "logger=none")
    monkeypatch.setattr(sys, "argv", ["blink.eval", *sides, f"preset={folder / 'preset.yaml'}"])
    eval_main()
    [scores] = Path("outputs/eval").glob("*/scores.json")
    result: dict[str, Any] = json.loads(scores.read_text())
    assert result["policy"]["layers"] == found.settings["layer"]
    assert "method=vanilla is recommended" in " ".join(result["warnings"])


def test_a_search_that_was_stopped_ends_as_it_would_have(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a search that begins anew, answers something twice, or ends with another choice."""
    whole = command(monkeypatch, backbone, *SMALL)
    kept = {name: (whole / name).read_bytes() for name in ("trials.csv", "finalists.csv", "preset.yaml")}
    shutil.rmtree(whole)
    calls = 0

    def stopping(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # the look was one, and the first batch; vanilla is read
            raise Stopped(signal.SIGTERM)
        predict(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr("blink.evaluation.tuning.measure.predict", stopping)
        with pytest.raises(SystemExit) as ended:
            command(patched, backbone, *SMALL)
    assert ended.value.code == 143
    assert not (whole / "preset.yaml").exists()
    before = {
        path: path.stat().st_mtime_ns for path in whole.rglob("predictions.jsonl") if path.stat().st_size
    }
    assert before
    assert command(monkeypatch, backbone, *SMALL) == whole
    assert {name: (whole / name).read_bytes() for name in kept} == kept
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.slow
def test_several_processes_choose_as_one_does(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch pictures of one pass that are answered in the next, settings that another process takes for others, a half
    that is mixed up with the other, and a second process that has nothing to do.
    """
    more = (backbone, *SMALL, "bench=[pope,gqa]", "bench.max_new_tokens=2", "engine.pictures=1")
    whole = command(monkeypatch, *more)
    sent: list[int] = []
    send = Team.send

    def counted(team: Team, rank: int, message: Mapping[str, Any]) -> None:
        sent.append(rank)
        send(team, rank, message)

    monkeypatch.setattr(Team, "send", counted)
    monkeypatch.setattr(sys, "argv", ["blink.tune", *more, "devices=2", "outputs=two"])
    main()
    assert set(sent) == {1}
    [two] = Path("two/tune").iterdir()
    assert two.name == whole.name
    for name in ("trials.csv", "finalists.csv", "look.csv", "preset.yaml"):
        assert (two / name).read_bytes() == (whole / name).read_bytes()
    files = sorted(path.relative_to(whole) for path in whole.rglob("predictions.jsonl"))
    assert sorted(path.relative_to(two) for path in two.rglob("predictions.jsonl")) == files
    for file in files:
        assert (two / file).read_bytes() == (whole / file).read_bytes()


def test_pictures_and_workers_are_as_asked_for(backbone: str) -> None:
    """Would catch keys of the engine that a search takes and does not heed."""
    overrides = [backbone, "scenes.images=2", "engine.pictures=3", "engine.workers=1"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("tune", overrides)
    passes = Passes(make_plan(config, overrides), Settings({}, overrides))
    for half in (SEARCH, HELD_OUT):
        answerer = passes.of([VANILLA], 0, half).load()
        assert isinstance(answerer, BackboneAnswerer)
        assert (answerer.pictures, answerer.workers) == (3, 1)


def test_several_benchmarks(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a mean over questions where one over benchmarks is asked for, and a part that is lost."""
    folder = command(
        monkeypatch, backbone, "bench=[pope,gqa]", "bench.max_new_tokens=2", "limit=40", "scenes.images=4", "trials=2", "finalists=1",
        "space.method=interp", "space.layers=1-2", "space.patches=[2]", "space.positions=region",
    )  # fmt: skip
    [row] = table(folder / "finalists.csv")
    assert {"gain_pope", "gain_gqa"} <= row.keys()
    half = (float(row["gain_pope"]) + float(row["gain_gqa"])) / 2
    assert float(row["gain"]) == pytest.approx(half, abs=1e-3)
    assert {each["layers"] for each in table(folder / "trials.csv")} <= {"1", "2", "1-2"}


def own_questions(folder: Path) -> str:
    folder.mkdir()
    lines = []
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": "What?", "answer": "red"}))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    return f"data.root={folder}"


def test_questions_of_the_users_own(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch questions without boxes and kinds that are refused."""
    root = own_questions(in_empty_folder / "mine")
    few = ("trials=2", "finalists=1", "space.patches=[2]", "split=validation")
    folder = command(monkeypatch, backbone, root, *few)
    assert table(folder / "look.csv")[0]["right"] == ""
    with pytest.raises(SystemExit, match="say which split the questions are by split=NAME"):
        command(monkeypatch, backbone, root, "trials=2")
    with pytest.raises(SystemExit, match="say which split the questions are"):
        command(monkeypatch, backbone, root, "split=My_TestSet")


@pytest.mark.slow
def test_torchrun_is_killed_in_part_and_goes_on(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a process that searches by itself, one that waits for ever for another that is gone, and another choice
    after that.
    """
    more = (backbone, *SMALL, "bench.max_new_tokens=2", "engine.pictures=1")
    whole = command(monkeypatch, *more)
    launched = ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "blink.tune", *more, "outputs=two")

    def searching(_: float) -> bool:
        if any(
            path.stat().st_size
            for path in Path("two").glob("tune/*/answers/search/*/interp*/predictions.jsonl")
        ):
            os.kill(second_process("outputs=two"), signal.SIGKILL)
            return True
        return False

    # no signal to torchrun: what the one that is gone means to the others is what is looked at
    ended = kills.command(*launched, until=searching, number=signal.SIGCONT, group=False)
    assert ended.code == 1
    [two] = Path("two/tune").iterdir()
    assert not (two / "preset.yaml").exists()
    assert python(*launched).returncode == 0
    assert [path.name for path in Path("two/tune").iterdir()] == [whole.name]
    for name in ("trials.csv", "finalists.csv", "look.csv", "preset.yaml"):
        assert (two / name).read_bytes() == (whole / name).read_bytes()


def second_process(argument: str) -> int:
    """The process of this folder that torchrun has started as its second."""
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
            if (
                argument.encode() in words
                and b"RANK=1" in variables
                and (process / "cwd").resolve() == Path.cwd()
            ):
                return int(process.name)
    raise AssertionError("there is none")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("split=test",), "split=test: settings are chosen on the validation split of the scenes"),
        (("split=backbone",), "split=backbone: settings are chosen on the validation split"),
        (("bench=pope", "data.root=."), "bench=pope has the split 'test' alone, .* split=test to take it"),
        (("bench=gqa", "data=hub", "split=test"), "split=test: bench=gqa has the split 'testdev' alone"),
        (("bench=scienceqa", "data=hub", "split=test"), "split=test: .* chosen on its validation split"),
        (("bench=vqa",), "bench=vqa: there is no such option"),
        (("bench=[]",), "bench is missing"),
        (("bench=mmvet",), "bench=mmvet: its answers need a judge"),
        (("trials=0",), "trials=0: expected a whole number of at least 1"),
        (("batch=x",), "batch='x': expected a whole number"),
        (("seed=x",), "seed='x': expected a whole number"),
        (("space.layers=2-9",), "layers .* this model has decoder layers 0 to 3"),
        (("space.method=zoom",), "space.method='zoom': expected one or more of interp"),
        (
            ("space.method=blink",),
            "space.method=blink needs TokenSR modules.* leave blink out of space.method",
        ),
        (("space.patches=[9]",), "space.patches=9 does not fit the 6 x 6 grid"),
        (("space.patches=[1]",), "space.patches=1: expected a whole number of at least 2"),
        (("trials=99999999999",), "trials=99999999999: expected a whole number of at least 1, at most"),
        (("bench.max_new_tokens=9999999",), "bench.max_new_tokens=9999999: the backbone's context"),
        (("space.patches=2",), "space.patches=2: expected a list of whole numbers"),
        (("space.positions=[here]",), "space.positions='here': expected one of append, region"),
        (("scenes.images=1",), "two at least are needed, one for each half"),
        (("token_sr=here", "space.method=interp"), "token_sr=here: no method of space.method uses modules"),
        (("engine.pictures=0",), "engine.pictures=0: expected a whole number of at least 1"),
        (("engine.workers=-1",), "engine.workers=-1: expected a whole number of at least 0"),
        (("devices=all",), "devices='all': expected"),
        (("devices=2", "model.device=cpu:0"), "devices=2 and model.device=cpu:0: expected auto, cpu or cuda"),
        (("engine.memory_gb=0",), "engine.memory_gb=0: expected a number above 0"),
        (("space.longer=3",), "unknown key 'space.longer'"),
        (("+colour=red",), "unknown key 'colour'"),
    ],
)
def test_mistakes_are_one_line(
    overrides: tuple[str, ...], message: str, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a test split that is searched on, and a mistake that is found after the backbone was loaded."""
    with pytest.raises(SystemExit, match=f"error: .*{message}") as caught:
        command(monkeypatch, backbone, "scenes.images=2", *overrides)
    assert caught.value.code == 2
    assert not Path("outputs").exists()


def test_a_benchmark_with_a_test_split_alone() -> None:
    """Would catch a report that does not say that its preset was chosen on a test split."""
    split, [warning] = check_split("pope", "test", "data/POPE")
    assert split == "test"
    assert "chosen on its test split of data/POPE" in warning
    assert check_split("scienceqa", None, None) == ("validation", [])
    assert check_split("questions", "mine", None) == ("mine", [])


def test_without_optuna(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a traceback where the extra is not installed."""
    monkeypatch.setattr("blink.evaluation.tuning.plan.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install 'blink-mllm\[tune\]'"):
        command(monkeypatch, backbone, *SMALL)


def test_what_is_searched_unless_the_user_says_otherwise(backbone: str) -> None:
    """Would catch a part of a setting that no search varies, and ceilings among what a preset may hold."""
    overrides = [backbone, "scenes.images=2"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        space = make_plan(compose("tune", overrides), overrides).space
    assert space.methods == ("interp", "encode")  # blink needs modules
    ratios = {patches: np.linspace(0.2, 0.9, 8)[:, None] * np.ones(4) for patches in space.patches}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [space.setting(study.ask(), ratios) for _ in range(60)]
    policies = [setting.policy for setting in found if setting.policy is not None]
    assert {setting.method for setting in found} == {"interp", "encode"}
    assert {layer for policy in policies for layer in policy.layers} == {0, 1, 2, 3}
    assert {len(policy.layers) for policy in policies} == {1, 2, 3, 4}
    for name in ("tau_exp", "tau_drop", "patches", "positions"):
        assert len({getattr(policy, name) for policy in policies}) > 1, name
    assert {(policy.selector, policy.schedule) for policy in policies} == {("saliency", "threshold")}


def test_what_ships_with_tiny_is_searched() -> None:
    """Would catch the shipped modules left out of a search on their own backbone."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("tune", ["scenes.images=2"])
    space = make_plan(config, ["scenes.images=2"]).space
    assert (space.methods, space.layers) == (("interp", "blink", "encode"), tuple(range(16)))
    assert (space.patches, space.positions) == ((2, 3), ("append", "region"))
