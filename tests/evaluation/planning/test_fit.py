"""Questions that a backbone cannot take."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from blink import Policy
from blink.bench import Sample
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.fit import check_boxes
from blink.runs.values import UserError


def test_boxes_that_the_backbone_does_not_see(llava_folder: Path, tmp_path: Path) -> None:
    """Would catch questions that a policy of boxes leaves alone in silence, and a run in which it leaves all of them."""
    copy = shutil.copytree(llava_folder, tmp_path / "cropping")
    settings = json.loads((copy / "processor_config.json").read_text())
    settings["image_processor"] |= {"do_center_crop": True, "size": {"shortest_edge": 24}}
    (copy / "processor_config.json").write_text(json.dumps(settings))
    checkpoint = Checkpoint.of({"path": str(copy), "pad": False})
    boxes = {"gone": (0, 0, 9, 9), "seen": (50, 0, 60, 9), "none": None}
    samples = [Sample(name, "wide", "?", "", "", Image.Image, {"box": box}) for name, box in boxes.items()]
    policy, sizes = Policy([1], selector="box"), {"wide": (120, 40)}
    assert check_boxes(policy, "questions", samples, sizes, checkpoint) == [
        "selector=box: 1 of 2 boxes lie outside what the backbone sees of their pictures, such as that of gone; nothing is "
        "expanded for these"
    ]
    assert check_boxes(policy, "questions", samples[1:], sizes, checkpoint) == []
    assert check_boxes(Policy([1]), "questions", samples, sizes, checkpoint) == []
    with pytest.raises(UserError, match="none of the 1 of questions has one"):
        check_boxes(policy, "questions", samples[2:], sizes, checkpoint)
