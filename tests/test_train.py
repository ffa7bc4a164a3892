"""The train command: what it leaves, how it continues, and what it refuses."""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import HydraException

from blink import load_token_sr
from blink.runs.command import one_line_errors
from blink.train import main, train
from blink.training.images import local_images
from blink.training.manifest import changed_since, check_images
from blink.training.module import TokenSRTraining
from blink.training.report import Summary
from tests import models
from tests.training.conftest import planned
from tests.training_runs import common, folder_of, run, same_weights

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]


def test_a_run_leaves_modules_and_a_summary(llava_folder: Path, pictures: Path) -> None:
    """Catches modules that `load_token_sr` cannot read, or that do not say what they belong to."""
    overrides = [*common(llava_folder, pictures), "layer=1-2", "held_out=2", "token_sr.dtype=bfloat16"]
    summary = run(*overrides)
    folder = folder_of(*overrides)
    assert json.loads((folder / "summary.json").read_text()) == asdict(summary)
    record = summary.provenance
    assert record is not None
    assert (record["seed"], record["versions"]["torch"]) == (0, torch.__version__)
    assert record["inputs"] == json.loads((folder / "inputs.json").read_text())
    assert record["command"].startswith("python -m blink.train ")
    assert summary.steps == 11  # 22 images, two per step
    for layer in ("1", "2"):
        entry = summary.layers[layer]
        assert entry["kl_reduction"] == pytest.approx(1 - entry["kl_token_sr"] / entry["kl_interpolation"])
    modules = load_token_sr(folder / "token_sr")
    assert sorted(modules) == [1, 2]
    assert next(modules[1].parameters()).dtype == torch.bfloat16
    recorded = json.loads((folder / "token_sr" / "config.json").read_text())
    assert recorded["backbone"] == str(llava_folder)
    assert recorded["prompt_prefix"].endswith("USER: ")
    assert recorded["steps"] == 11
    assert recorded["objective"] == "kl"
    assert recorded["settings"]["global_pairs"] == 8
    assert (folder / "config.yaml").exists()
    assert json.loads((folder / "manifest.json").read_text())["images"] == 24


def test_scenes_are_the_default(llava_folder: Path) -> None:
    """Catches held-out scenes that are trained on, scenes that change with their number, and unlogged measures."""
    overrides = [one for one in common(llava_folder, Path("unused")) if "data.root" not in one]
    overrides = [*overrides, "layer=1", "held_out=3", "logger=csv", "optimizer.learning_rate=0.0"]
    few, more = (run(*overrides, f"images={count}") for count in (4, 6))
    assert few.layers == more.layers  # untrained, and measured on the same scenes
    assert (few.train_images, more.train_images, few.held_out_images) == (4, 6, 3)
    (logged,) = folder_of(*overrides, "images=4").glob("csv/*/metrics.csv")
    assert "held_out/layer_1/kl_token_sr" in logged.read_text()


def test_a_killed_run_ends_like_one_that_was_not(
    llava_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a resume that repeats or skips images, restarts the schedule or forgets AdamW's moments.

    Two epochs of 10 steps, checkpoints every 4; one run dies in step 15, in its second epoch, and goes on
    from step 12.
    """
    overrides = [
        *common(llava_folder, pictures),
        "layer=[1,2]",
        "epochs=2",
        "images=20",
        "trainer.val_check_interval=5",
    ]
    whole = run(*overrides, "outputs=whole")
    steps: list[int] = []
    step = TokenSRTraining.training_step

    def dying(self: TokenSRTraining, *arguments: Any) -> torch.Tensor:
        steps.append(self.trainer.global_step)
        if steps.count(14) == 1 and steps[-1] == 14:
            raise RuntimeError("killed")
        return step(self, *arguments)

    monkeypatch.setattr(TokenSRTraining, "training_step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        run(*overrides)
    assert not (folder_of(*overrides) / "summary.json").exists()
    continued = run(*overrides)
    assert steps == [*range(15), *range(12, 20)]
    assert continued.layers == whole.layers
    same_weights(
        folder_of(*overrides) / "token_sr",
        Path("whole") / folder_of(*overrides).relative_to("outputs") / "token_sr",
    )


def test_a_killed_run_continues_in_other_batches(
    llava_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a position counted in batches, of which a step has another number where the run goes on, as on fewer GPUs."""
    overrides = [*common(llava_folder, pictures), "layer=1", "global_pairs=16", "checkpoint_every=2"]
    run(*overrides, "outputs=whole")
    place = folder_of(*overrides).relative_to("outputs")
    step = TokenSRTraining.training_step
    for begun, then in (("8", "16"), ("16", "4")):
        dies, trained = True, list[int]()

        def dying(self: TokenSRTraining, *arguments: Any) -> torch.Tensor:
            if self.trainer.global_step == 3 and dies:  # noqa: B023 (called in this turn alone)
                raise RuntimeError("killed")
            trained.append(self.trainer.global_step)  # noqa: B023
            return step(self, *arguments)

        monkeypatch.setattr(TokenSRTraining, "training_step", dying)
        outputs = f"outputs=from_{begun}"
        with pytest.raises(RuntimeError, match="killed"):
            run(*overrides, f"device_pairs={begun}", outputs)
        dies, trained = False, []
        continued = run(*overrides, f"device_pairs={then}", outputs)
        assert continued.steps == 5
        assert trained == [at for at in (2, 3, 4) for _ in range(16 // int(then))]
        same_weights(
            Path(f"from_{begun}") / place / "token_sr", Path("whole") / place / "token_sr", 1e-4, 1e-6
        )


def test_checkpoints_hold_the_sampler_and_no_backbone(llava_folder: Path, pictures: Path) -> None:
    """Catches checkpoints of the backbone's size, or without the position in the data."""
    overrides = [*common(llava_folder, pictures), "layer=2"]
    run(*overrides)
    (file,) = (folder_of(*overrides) / "checkpoints").glob("*.ckpt")
    checkpoint = torch.load(file, weights_only=True)
    assert file.name == "step-11.ckpt"
    assert checkpoint["PairData"]["position"] == 11
    assert all(name.startswith("token_sr.2.") for name in checkpoint["state_dict"])
    kept = sum(value.numel() for value in checkpoint["state_dict"].values())
    moments = checkpoint["optimizer_states"][0]["state"]
    assert len(moments) == len(checkpoint["state_dict"])
    assert sum(entry["exp_avg"].numel() for entry in moments.values()) == kept


def test_the_same_command_returns_the_run(
    llava_folder: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a finished run that is trained again, and --help or unknown keys that start one."""
    arguments = [*common(llava_folder, pictures), "layer=1", "images=8"]
    monkeypatch.setattr(sys, "argv", ["blink.train", *arguments])
    main()
    assert "KL TokenSR" in capsys.readouterr().out
    modules = folder_of(*arguments) / "token_sr" / "layer_01.safetensors"
    written = modules.stat().st_mtime_ns
    main()
    again = capsys.readouterr().out
    assert "this run is done" in again
    assert "KL TokenSR" in again
    assert modules.stat().st_mtime_ns == written
    assert sorted(path.name for path in Path().iterdir()) == ["outputs"]


def test_earlier_modules_are_measured_beside_the_new(llava_folder: Path, pictures: Path) -> None:
    """Catches a reference that is trained on, or that is measured on other images than the new modules."""
    overrides = [*common(llava_folder, pictures), "layer=[1,2]"]
    first = run(*overrides)
    reference = folder_of(*overrides) / "token_sr"
    again = run(*overrides, f"reference={reference}", "optimizer.learning_rate=0.0")
    for layer in ("1", "2"):
        assert again.layers[layer]["kl_reference"] == first.layers[layer]["kl_token_sr"]
        assert again.layers[layer]["kl_token_sr"] != first.layers[layer]["kl_token_sr"]
    with pytest.raises(SystemExit, match=r"has modules of layers \[1, 2\] only"):
        run(*overrides, "layer=3", f"reference={reference}")


def test_unknown_keys_are_errors_of_hydra() -> None:
    """Catches an override that nothing reads."""
    with pytest.raises(HydraException, match="learning_rat"):
        run("layer=1", "optimizer.learning_rat=1")


def test_a_broken_image_among_many_is_left_out(llava_folder: Path, pictures: Path, tmp_path: Path) -> None:
    """Catches a run that stops at one damaged file in a folder, or that does not count it."""
    folder = tmp_path / "some"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "00.png").write_bytes(b"no image")
    overrides = [*common(llava_folder, folder), "layer=1"]
    assert run(*overrides).unreadable_images == 1
    listed = json.loads((folder_of(*overrides) / "manifest.json").read_text())["unreadable"]
    assert list(listed) == [str(folder / "00.png")]


def test_a_changed_picture_or_backbone_is_noticed(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a killed run that goes on with other pictures or another backbone than it began with."""
    backbone = tmp_path / "backbone"
    shutil.copytree(llava_folder, backbone)
    (tmp_path / "pictures").mkdir()
    for seed in range(8):
        models.picture(seed, (48, 40)).save(tmp_path / "pictures" / f"{seed}.png")
    overrides = [*common(backbone, tmp_path / "pictures"), "layer=1", "checkpoint_every=1"]
    step = TokenSRTraining.training_step

    def dies(self: TokenSRTraining, batch: Any, index: int) -> Any:
        if index == 2:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(TokenSRTraining, "training_step", dies)
    with pytest.raises(SystemExit):
        run(*overrides)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert list(folder_of(*overrides).glob("checkpoints/*.ckpt"))
    settings = backbone / "processor_config.json"
    before = settings.read_text()
    settings.write_text(before + " ")
    with pytest.raises(SystemExit, match="begun with another backbone"):
        run(*overrides)
    settings.write_text(before)
    models.picture(99, (48, 40)).save(tmp_path / "pictures" / "3.png")
    with pytest.raises(SystemExit, match="begun with another images"):
        run(*overrides)
    models.picture(3, (48, 40)).save(tmp_path / "pictures" / "3.png")
    assert run(*overrides).steps == 3


def test_newer_pictures_of_a_finished_run_are_told(tmp_path: Path) -> None:
    """Would catch a finished run returned for other pictures without a word, and a word where nothing changed."""
    path = tmp_path / "pictures" / "a.png"
    path.parent.mkdir()
    models.picture(0, (8, 8)).save(path)
    manifest = tmp_path / "manifest.json"
    check_images(local_images([path.parent]), manifest)
    assert not changed_since(manifest, [path.parent])
    os.utime(path, (1, 1))
    assert changed_since(manifest, [path.parent])
    shutil.rmtree(path.parent)
    assert not changed_since(manifest, [path.parent])
    assert not changed_since(manifest, [])


def test_a_finished_run_that_lost_a_file_makes_it_anew(
    llava_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a run that is called done without its modules, dies of its own summary, or is trained again."""
    arguments = [*common(llava_folder, pictures), "layer=1"]
    folder = folder_of(*arguments)
    first = run(*arguments)
    shutil.copytree(folder / "token_sr", "before")
    (folder / "summary.json").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["blink.train", *arguments])
    main()
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"summary\.json is damaged: .*; it is made anew", said)
    assert "all steps are done" in said
    again = Summary.read(folder)
    assert (again.layers, again.steps) == (first.layers, 11)
    shutil.rmtree(folder / "token_sr")
    main()
    said = " ".join(capsys.readouterr().out.split())
    assert "token_sr lacks config.json, layer_01.safetensors, or they are damaged: made anew" in said
    assert "all steps are done" in said
    same_weights(folder / "token_sr", Path("before"))


def test_a_trial_keeps_nothing(llava_folder: Path, pictures: Path) -> None:
    """Would catch fast_dev_run that leaves a run which is returned as done from then on."""
    arguments = [*common(llava_folder, pictures), "layer=1", "+trainer.fast_dev_run=2"]
    for _ in range(2):
        with one_line_errors():
            assert train(planned(*arguments), arguments) is None
        folder = folder_of(*arguments)
        assert not {"summary.json", "token_sr", "checkpoints"} & {path.name for path in folder.iterdir()}


def test_a_run_without_steps_is_not_done(llava_folder: Path, pictures: Path) -> None:
    """Would catch a time limit that ends a run before its first step, and a summary of random weights."""
    arguments = [*common(llava_folder, pictures), "layer=1", "+trainer.max_time={seconds:0}"]
    with pytest.raises(SystemExit, match="no optimizer step was made"):
        run(*arguments)
    assert not (folder_of(*arguments) / "summary.json").exists()
