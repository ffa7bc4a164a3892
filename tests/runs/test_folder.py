"""Run folders: what names them, what continues them, and what they refuse."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from blink.runs import folder as outputs
from blink.runs.lock import lock_scope
from blink.runs.machine import RANK_VARIABLES


@pytest.fixture(autouse=True)
def first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in RANK_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "default"),
        (["layer=12"], "layer-12"),
        (["layer=12", "epochs=2"], "epochs-2+layer-12"),
        (["layer=[12,13]"], "layer-12_13"),
        (["layer=3", "layer=12"], "layer-12"),
        (["layer=[12, 13]"], "layer-12_13"),
        (["interpolate=false"], "interpolate-False"),
        (["layer=1,2"], "layer-1_2"),
        (["layer=1", "ckpt=other.ckpt"], "ckpt-other.ckpt+layer-1"),
        (
            ["layer=12", "fresh=true", "logger=none", "logger.project=x", "outputs=/tmp/x", "ckpt=last"],
            "layer-12",
        ),
    ],
)
def test_name_follows_from_overrides(overrides: list[str], name: str) -> None:
    """Catches names that depend on the order of overrides or on keys that do not change the result."""
    assert outputs.run_name(overrides) == name


def test_a_run_folder_can_be_given_as_an_override() -> None:
    """Catches names with = or , which Hydra does not take unquoted: token_sr=outputs/train/<name>/token_sr."""
    name = outputs.run_name(["layer=[12,13]", "optimizer.learning_rate=1e-4", "data.root=/a/b"])
    (override,) = OverridesParser.create().parse_overrides([f"token_sr=outputs/train/{name}/token_sr"])
    assert override.value() == f"outputs/train/{name}/token_sr"


def test_names_of_different_overrides_differ() -> None:
    """Catches two runs in one folder after characters were replaced or a long name was cut."""
    long = "model.path=" + "a" * 300
    names = {outputs.run_name([one]) for one in ("model.path=/a/b", "model.path=_a_b", long, long + "b")}
    assert len(names) == 4
    assert all("/" not in name and len(name.encode()) < 200 for name in names)


def test_same_command_continues_its_folder(tmp_path: Path) -> None:
    """Catches a second start that empties the folder or opens another one."""
    first = outputs.open_run(tmp_path, "train", ["layer=12"], {"layer": 12, "trainer": {"devices": 1}})
    (first / "kept").touch()
    again = outputs.open_run(
        tmp_path, "train", ["layer=12"], {"layer": 12, "trainer": {"devices": 1}, "fresh": False}
    )
    assert again == first == tmp_path / "train" / "layer-12"
    assert (again / "kept").exists()


def test_another_config_is_refused(tmp_path: Path) -> None:
    """Catches results of a changed default mixing with older ones under the same name."""
    outputs.open_run(
        tmp_path, "train", ["layer=12"], {"layer": 12, "optimizer": {"rate": 0.1}, "logger": "a"}
    )
    with pytest.raises(ValueError, match=r"optimizer.rate: 0.1 there, 0.2 now.*fresh=true"):
        outputs.open_run(
            tmp_path, "train", ["layer=12"], {"layer": 12, "optimizer": {"rate": 0.2}, "logger": "b"}
        )


def test_a_run_from_before_a_key_goes_on_at_what_it_did(tmp_path: Path) -> None:
    """Would catch a new key of the config that leaves runs of earlier versions behind, or takes them for anything."""
    config = {"layer": 1, "positions": "append"}
    folder = outputs.open_run(tmp_path, "eval", ["layer=1"], {"layer": 1})
    assert outputs.open_run(tmp_path, "eval", ["layer=1"], config) == folder
    with pytest.raises(ValueError, match=r"positions: append there, region now"):
        outputs.open_run(tmp_path, "eval", ["layer=1"], config | {"positions": "region"})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """Catches a run that writes among a user's own files."""
    (tmp_path / "train" / "layer-12").mkdir(parents=True)
    (tmp_path / "train" / "layer-12" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"no config.yaml"):
        outputs.open_run(tmp_path, "train", ["layer=12"], {})


def test_a_run_killed_while_it_wrote_goes_on(tmp_path: Path) -> None:
    """Would catch a folder refused as no run because its first file was half written, and halves that stay."""
    folder = outputs.run_folder(tmp_path, "eval", ["layer=1"])
    folder.mkdir(parents=True)
    for name in ("config.yaml.12.partial", "scores.json.345.partial"):
        (folder / name).write_text("lay")
    for _ in range(2):
        assert outputs.open_run(tmp_path, "eval", ["layer=1"], {"layer": 1}) == folder
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["config.yaml"]
        (folder / "pages").mkdir(exist_ok=True)
        for name in ("scores.json.345.partial", "pages/0001.html.345.partial"):
            (folder / name).write_text("{")


def test_fresh_keeps_the_earlier_runs(tmp_path: Path) -> None:
    """Catches fresh=true that deletes results, or that continues the old ones."""
    for number in range(3):
        folder = outputs.open_run(tmp_path, "train", ["layer=12"], {"layer": 12}, fresh=True)
        assert sorted(path.name for path in folder.iterdir()) == ["config.yaml"]
        (folder / f"result{number}").touch()
    kept = {path.parent.name: path.name for path in (tmp_path / "train").glob("*/result*")}
    assert kept == {"layer-12.old1": "result0", "layer-12.old2": "result1", "layer-12": "result2"}


def test_later_processes_do_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a second DDP process that moves away the folder its first one just made (fresh=true)."""
    with lock_scope():
        first = outputs.open_run(tmp_path, "train", ["layer=12"], {"layer": 12}, fresh=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert outputs.open_run(tmp_path, "train", ["layer=12"], {"layer": 12}, fresh=True) == first
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["layer-12"]


def test_inputs_are_fixed_once_something_came_of_them(tmp_path: Path) -> None:
    """Would catch a run that goes on from a backbone of another revision, and one that cannot start again before."""
    record = tmp_path / outputs.INPUTS
    outputs.check_inputs(record, {"revision": "old"}, begun=False)
    outputs.check_inputs(record, {"revision": "new"}, begun=False)
    outputs.check_inputs(record, {"revision": "new"})
    with pytest.raises(ValueError, match=r"begun with another revision .*new then, old now.*fresh=true"):
        outputs.check_inputs(record, {"revision": "old"})
