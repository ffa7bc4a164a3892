"""Regions encoded anew and regions that hold a box, as commands give them, on a small random backbone."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.bench import Pope
from tests.test_eval import SMALL, command


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Outputs go below the directory in which the command is given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def backbone(llava_folder: Path) -> str:
    return f"model.path={llava_folder}"


@pytest.mark.slow
def test_encoded_regions_and_boxes(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a method that encodes nothing, a box that does not decide the region, questions without a box that end a run
    or are counted as if Blink had acted, and answers that differ where nothing is shared."""
    usual = (backbone, *SMALL, "layer=1-2", "tau_exp=0", "tau_drop=0", "patches=3")
    found: dict[str, dict[str, Any]] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, more in {
        "interp": ("method=interp",),
        "encode": ("method=encode",),
        "box": ("method=encode", "selector=box", "positions=region"),
        "alone": ("method=encode", "selector=box", "positions=region", "engine.reuse=none"),
    }.items():
        command(monkeypatch, *usual, *more, f"outputs=outputs/{name}")
        [folder] = (working_directory / "outputs" / name / "eval").iterdir()
        found[name] = json.loads((folder / "scores.json").read_text())
        rows[name] = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert found["encode"]["method"] == "encode"
    assert (found["encode"]["policy"]["source"], found["interp"]["policy"]["source"]) == ("encode", "coarse")
    assert found["encode"]["flops"] > found["interp"]["flops"]
    assert found["encode"]["without_blink"] == 0
    boxed = [row for row in rows["box"] if row["box"] is not None]
    assert 0 < len(boxed) < len(rows["box"])
    assert found["box"]["expanded"] == len(boxed) / len(rows["box"])
    [side] = {size for sample in Pope().from_scenes("validation", 2) for size in sample.load_image().size}
    for row in rows["box"]:
        if row["box"] is None:
            assert [event["action"] for event in row["events"]] == ["keep", "keep"]
            continue
        x, y = ((row["box"][axis] + row["box"][axis + 2]) / 2 / side for axis in (0, 1))
        regions = {event["region"] for event in row["events"]}
        assert len(regions) == 1
        assert abs(divmod(min(regions), 3)[0] + 0.5 - 3 * y) < 1
        assert abs(divmod(min(regions), 3)[1] + 0.5 - 3 * x) < 1
    assert len({event["region"] for row in boxed for event in row["events"]}) > 2
    assert [row["response"] for row in rows["alone"]] == [row["response"] for row in rows["box"]]
    assert found["alone"]["flops"] == found["box"]["flops"]


def test_a_benchmark_without_boxes_is_refused(
    backbone: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a run that would answer every question without Blink."""
    folder = working_directory / "mine"
    folder.mkdir()
    Image.new("RGB", (96, 96)).save(folder / "a.png")
    asked = {"image": "a.png", "question": "What is it?", "answer": "dog"}
    (folder / "questions.jsonl").write_text(json.dumps(asked) + "\n")
    overrides = (backbone, "logger=none", "method=encode", "layer=1", "selector=box", "bench=questions")
    with pytest.raises(
        SystemExit, match=r"^error: selector=box goes by the box .* none of the 1 of questions"
    ):
        command(monkeypatch, *overrides, "data=local", "data.root=mine")
