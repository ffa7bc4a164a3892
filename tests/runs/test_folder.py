"""Run folders: what continues them, and what they refuse."""

from pathlib import Path

import pytest

from blink.runs import folder as outputs
from blink.runs.lock import lock_scope
from blink.runs.machine import RANK_VARIABLES
from blink.runs.provenance import note_process, provenance


@pytest.fixture(autouse=True)
def first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in RANK_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


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


def test_a_run_that_an_earlier_version_named_otherwise_goes_on(tmp_path: Path) -> None:
    """Would catch days of computing that are done again since a folder has another name, and a folder of another command."""
    overrides, config = ["method=interp", "data.root=/data/a"], {"method": "interp"}
    old = tmp_path / "eval" / "data.root-_data_a+method-interp-20efd9ba"
    assert outputs.run_folder(tmp_path, "eval", overrides).name == "data.root-a+method-interp-2f437586"
    old.mkdir(parents=True)
    assert outputs.run_folder(tmp_path, "eval", overrides) != old  # whose it is cannot be told
    note_process(old, provenance("eval", ["data.root=/data/a", "fresh=true", "method=interp"]))
    assert outputs.run_folder(tmp_path, "eval", overrides) == old
    for file in old.iterdir():
        file.unlink()
    assert outputs.open_run(tmp_path, "eval", overrides, config) != old
    note_process(old, provenance("eval", overrides))
    assert outputs.run_folder(tmp_path, "eval", overrides) != old, "a folder of the new name comes first"


def test_an_earlier_folder_of_another_command_is_left_alone(tmp_path: Path) -> None:
    """Would catch layer=[12] that goes into the folder of layer=12, which once had the same name."""
    folder = outputs.open_run(tmp_path, "eval", ["layer=12"], {"layer": 12})
    note_process(folder, provenance("eval", ["layer=12"]))
    assert outputs.open_run(tmp_path, "eval", ["layer=[12]"], {"layer": [12]}) != folder
