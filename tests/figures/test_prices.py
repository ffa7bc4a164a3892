"""What a run's prompts cost, against the pieces of `blink.cost` put together by hand."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from blink import cost
from blink.checkpoints import load_processor
from blink.compare import read_run
from blink.dimensions import Dimensions
from blink.figures.prices import flops_over_vanilla
from blink.policy import Event
from blink.prepare import outlined
from blink.prompts import template_named

EXPANDED = {"layer": 1, "ratio": 0.6, "region": 2, "action": "expand"}
DROPPED = {"layer": 3, "ratio": 0.2, "region": 0, "action": "drop"}
KEPT = {"layer": 1, "ratio": 0.4, "region": 0, "action": "keep"}


def run(folder: Path, backbone: Path, policy: dict[str, object] | None, token_sr: str | None = None) -> Path:
    """A run folder with two questions, of which one expands at layer 1 and drops at layer 3."""
    rows = [
        {"question": "Is there a red circle?", "events": [EXPANDED, DROPPED]},
        {"question": "Is there a red circle in the image?", "events": [KEPT]},
    ]
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {"method": "blink", "policy": policy, "token_sr": token_sr}
    (folder / "scores.json").write_text(json.dumps(scores))
    model = {"path": str(backbone), "revision": None, "template": "vicuna_v1"}
    OmegaConf.save(OmegaConf.create({"model": model}), folder / "config.yaml")
    return folder


def by_hand(backbone: Path, extension: int, expander: cost.Cost) -> float:
    """The ratio from `cost.prompt` on each question."""
    dims = Dimensions.of(outlined(str(backbone), None).model.config)
    tokenizer = load_processor(backbone).tokenizer
    questions = ("Is there a red circle?", "Is there a red circle in the image?")
    lengths = [len(tokenizer(template_named("vicuna_v1").prompt(q))["input_ids"]) - 1 + 36 for q in questions]
    events = ([Event(**EXPANDED), Event(**DROPPED)], [Event(**KEPT)])  # type: ignore[arg-type]
    spent = [
        cost.prompt(dims, tokens, actions, extension=extension, expander=expander).flops
        for tokens, actions in zip(lengths, events, strict=True)
    ]
    plain = [cost.prompt(dims, tokens).flops for tokens in lengths]
    return sum(spent) / sum(plain)


def test_flops_over_vanilla(tmp_path: Path, llava_folder: Path) -> None:
    """Would catch an extension counted at its full size where it is not resized, and TokenSR left out."""
    policy = {"interpolate": True, "patches": 2, "saliency": "attention"}
    whole = flops_over_vanilla(read_run(run(tmp_path / "whole", llava_folder, policy)))
    small = flops_over_vanilla(
        read_run(run(tmp_path / "small", llava_folder, policy | {"interpolate": False}))
    )
    refined = flops_over_vanilla(read_run(run(tmp_path / "refined", llava_folder, policy, "modules")))
    dims = Dimensions.of(outlined(str(llava_folder), None).model.config)
    assert whole == pytest.approx(by_hand(llava_folder, 36, cost.Cost()))
    assert small == pytest.approx(by_hand(llava_folder, 9, cost.Cost()))
    assert refined == pytest.approx(by_hand(llava_folder, 36, cost.token_sr(dims)))
    assert 1 < small < whole < refined
    assert flops_over_vanilla(read_run(run(tmp_path / "vanilla", llava_folder, None))) == 1


def test_run_without_its_config_is_refused(tmp_path: Path, llava_folder: Path) -> None:
    """Would catch the cost of another backbone, taken from today's defaults."""
    folder = run(tmp_path / "run", llava_folder, {"interpolate": True})
    (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"holds no config.yaml, which names its backbone"):
        flops_over_vanilla(read_run(folder))
