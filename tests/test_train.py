"""The train command: what it leaves, how it continues, and what it refuses."""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
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


def test_features_on_disk_replace_the_backbone(
    llava_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cached run that loads the backbone or decodes pictures, that ends elsewhere, or that goes by stale features.

    Rounding the features to bfloat16 moves KL by well under a percent.
    """
    overrides = [*common(llava_folder, pictures), "layer=[1,2]"]
    plain = run(*overrides)
    cached = run(*overrides, "data.cache_features=f", "epochs=2")
    for layer in ("1", "2"):
        for name in ("kl_interpolation", "cosine_interpolation"):
            assert cached.layers[layer][name] == pytest.approx(plain.layers[layer][name], rel=5e-3)
        assert cached.layers[layer]["kl_token_sr"] < plain.layers[layer]["kl_token_sr"]

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("not needed")

    monkeypatch.setattr("blink.training.parts.modules.load_backbone", unwanted)
    monkeypatch.setattr("blink.training.images.ImageFiles.read", unwanted)
    again = run(*overrides, "data.cache_features=f")
    assert again.steps == 11
    for name, value in plain.layers["2"].items():
        assert again.layers["2"][name] == pytest.approx(value, rel=2e-2, abs=1e-3)
    run(*overrides, "data.cache_features=f", "layer=2", "token_sr.kernels=[3,3,1]", "images=10")
    with pytest.raises(SystemExit, match=r"data\.cache_features=f holds features that are not this run"):
        run(*overrides, "data.cache_features=f", "model.template=mistral_instruct")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(SystemExit, match=r"needs 276.5 kB more for 24 pictures \(11.5 kB for each"):
        run(*overrides, "data.cache_features=f", "layer=3")


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


EARLY = [
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=2",
    "callbacks.early_stopping.min_delta=10",
    "trainer.val_check_interval=2",
    "checkpoint_every=2",
]
"""Every second step is measured, and nothing improves by ten nats: the run ends at the third measure, after step 6."""


def test_callbacks_of_the_user_run(llava_folder: Path, pictures: Path) -> None:
    """Would catch a group of callbacks that is accepted and not read, and one that sees each measure too late."""
    overrides = [*common(llava_folder, pictures), "layer=1", *EARLY]
    assert run(*overrides).steps == 6
    assert [path.name for path in folder_of(*overrides).glob("checkpoints/*")] == ["step-6.ckpt"]


def test_what_early_stopping_waits_for_is_measured(llava_folder: Path, pictures: Path) -> None:
    """Would catch a traceback for a metric that the run has not; Lightning looks once it has measured."""
    overrides = [*common(llava_folder, pictures), "layer=1", *EARLY, "callbacks.early_stopping.monitor=loss"]
    with pytest.raises(
        SystemExit, match=r"error: callbacks: .*`loss` which is not available.*held_out/kl_token_sr"
    ):
        run(*overrides)


@pytest.mark.parametrize("step", [3, 4, 5, 7])
def test_a_killed_run_stops_early_where_it_would_have(
    step: int, llava_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a resume that leaves out a measure a callback counts, or that trains on after the run had ended.

    A kill in "step 7" is one in the last measuring, once training has ended early.
    """
    overrides = [*common(llava_folder, pictures), "layer=1", *EARLY]
    whole = run(*overrides, "outputs=whole")
    stock = TokenSRTraining.training_step, TokenSRTraining.validation_step

    def dying(method: Any) -> Any:
        def call(self: TokenSRTraining, *arguments: Any) -> Any:
            last = self.trainer.state.fn == "validate"
            if last if step == 7 else self.trainer.global_step == step - 1:
                raise RuntimeError("killed")
            return method(self, *arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(TokenSRTraining, "training_step", dying(stock[0]))
        patch.setattr(TokenSRTraining, "validation_step", dying(stock[1]))
        with pytest.raises(RuntimeError, match="killed"):
            run(*overrides)
    again = run(*overrides)
    assert (again.steps, again.layers) == (whole.steps, whole.layers)
    same_weights(
        folder_of(*overrides) / "token_sr", folder_of(*overrides, outputs=Path("whole")) / "token_sr"
    )


def test_callbacks_of_a_folder_of_the_user(
    llava_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch configs of callbacks that only this project may add, and a name among them that is refused."""
    (tmp_path / "mine" / "callbacks").mkdir(parents=True)
    (tmp_path / "mine" / "callbacks" / "short.yaml").write_text(
        "timer:\n  _target_: lightning.pytorch.callbacks.Timer\n  duration: '00:00:00:00'\n"
    )
    arguments = [*common(llava_folder, pictures), "layer=1", f"hydra.searchpath=[file://{tmp_path / 'mine'}]"]
    for chosen, said in (
        ("short", "no optimizer step was made"),
        ("shrt", r"callbacks=shrt: there is no such option \(did you mean short"),
    ):
        monkeypatch.setattr(sys, "argv", ["blink.train", *arguments, f"callbacks={chosen}"])
        with pytest.raises(SystemExit, match=said) as ended:
            main()
        assert ended.value.code == 2
