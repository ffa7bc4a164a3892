"""What was logged already, and ids in dashboards, as a run's folder keeps them."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from blink.runs.boards.marks import MARKS, already_logged, note_logged
from blink.runs.config.groups import CONF_DIR
from blink.runs.files import read_json, write_json

WANDB, CSV = "blink.runs.loggers.wandb_logger", "blink.runs.loggers.csv_logger"


def test_a_logger_is_known_by_its_name(tmp_path: Path) -> None:
    """Would catch marks that hold where a function lies, so that finished runs are logged twice once it moves."""
    for config in (CONF_DIR / "logger").glob("*.yaml"):
        folder = tmp_path / config.stem
        folder.mkdir()
        note_logged(folder, OmegaConf.load(config)._target_, None, "digest")
        assert read_json(folder / MARKS) == {"told": {f"{config.stem} ": "digest"}}
    note_logged(tmp_path, WANDB, "taus", "digest")
    assert read_json(tmp_path / MARKS) == {"told": {"wandb taus": "digest"}}
    assert already_logged(tmp_path, WANDB, "taus", "digest")
    for other in ((CSV, "taus", "digest"), (WANDB, None, "digest"), (WANDB, "taus", "newer")):
        assert not already_logged(tmp_path, *other)


def test_marks_of_earlier_versions_count(tmp_path: Path) -> None:
    """Would catch a run that an earlier version logged and that is logged again, and ids that get lost."""
    old = {
        "ids": {"": "0123abcd"},
        "told": {"blink.tracking.loggers.wandb_logger ": "one", "elsewhere.wandb_logger ": "two"},
    }
    write_json(tmp_path / MARKS, old)
    assert already_logged(tmp_path, WANDB, None, "one")
    assert already_logged(tmp_path, "elsewhere.wandb_logger", None, "two")
    assert not already_logged(tmp_path, CSV, None, "one")
    note_logged(tmp_path, WANDB, None, "three")
    assert read_json(tmp_path / MARKS) == {
        "ids": {"": "0123abcd"},
        "told": {"wandb ": "three", "elsewhere.wandb_logger ": "two"},
    }


@pytest.mark.parametrize("content", ["", "\0\0", "[]", '{"ids": 3}', '{"told": {"wandb ": null}}'])
def test_damaged_marks_are_none(content: str, tmp_path: Path) -> None:
    """Would catch a finished run that cannot be looked at since a power failure emptied what says how it was logged."""
    (tmp_path / MARKS).write_text(content)
    assert not already_logged(tmp_path, WANDB, None, "one")
    note_logged(tmp_path, WANDB, None, "one")
    assert already_logged(tmp_path, WANDB, None, "one")
