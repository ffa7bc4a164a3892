"""Keys and values that are refused before anything is read."""

import pytest

from blink.evaluation.planning.settings import check_data_keys, process_count
from blink.runs.values import UserError


def test_keys_of_data_that_no_question_is_read_by() -> None:
    """Would catch a split, a column or a misspelt key given through a config that changes nothing, and defaults refused."""
    read = {"source": "local", "root": "a", "exif": "apply", "allow_outside": True}
    check_data_keys(read)
    check_data_keys(
        {"source": "hub", "root": None, "id": None, "name": None, "split": "train", "column": None}
    )
    with pytest.raises(
        UserError,
        match=r"data.split=test, data.colour=red: not read for a benchmark.* read are data.source, data.root, data.id, "
        "data.exif, data.allow_outside",
    ):
        check_data_keys(read | {"split": "test", "colour": "red", "column": None})


def test_how_many_processes_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches several processes on one device, and a number that torchrun has not started."""
    on = {"device": "cpu", "device_map": None}
    assert [process_count(devices, on) for devices in (1, 3, "auto")] == [1, 3, 1]
    with pytest.raises(UserError, match=r"devices=2 and model.device_map=auto"):
        process_count(2, on | {"device_map": "auto"})
    with pytest.raises(UserError, match=r"devices=2 and model.device=cuda:1"):
        process_count(2, on | {"device": "cuda:1"})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert [process_count(devices, on) for devices in (1, 4, "auto")] == [4, 4, 4]
    with pytest.raises(UserError, match="devices=3: 4 processes were started"):
        process_count(3, on)
