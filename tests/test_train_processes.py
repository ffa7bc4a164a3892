"""The train command in several processes: DDP on CPUs, multiruns of it, and DeepSpeed."""

import json
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from blink.runs.config.groups import CONF_DIR
from blink.runs.names import run_name
from tests.crash import kills
from tests.processes import python
from tests.training_runs import common, folder_of, run, same_weights

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m blink.train` as a user types it."""
    return python("-m", "blink.train", *arguments)


@pytest.mark.slow
def test_two_processes_fill_and_read_features(llava_folder: Path, pictures: Path) -> None:
    """Catches processes that fill the same rows, read rows that are not there yet, or train on others than one does."""
    arguments = [*common(llava_folder, pictures), "layer=[1,3]"]
    run(*arguments, "data.cache_features=one")
    ended = command(*arguments, "data.cache_features=two", "trainer=ddp_cpu")
    assert ended.returncode == 0, ended.stderr
    assert "are computed first" in ended.stdout
    assert ended.stdout.count("training layers 1, 3") == 1  # one process tells the story
    for layer in (1, 3):
        one, two = (np.fromfile(Path(at, f"layer_{layer:02d}.features"), np.int16) for at in ("one", "two"))
        assert len(one) == len(two)
        assert (one == two).mean() > 0.99  # but for sums in another order, rounded
    same_weights(
        folder_of(*arguments, "data.cache_features=two", "trainer=ddp_cpu") / "token_sr",
        folder_of(*arguments, "data.cache_features=one") / "token_sr",
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.slow
def test_numbers_of_another_process_end_all(llava_folder: Path, pictures: Path) -> None:
    """Would catch a process that waits for ever for one that has stopped, and a mistake that no line names."""
    arguments = [
        *common(llava_folder, pictures),
        "layer=[1,2]",
        "trainer=ddp_cpu",
        "trainer.val_check_interval=1.0",
    ]
    ended = command(*arguments, "+callbacks.damage._target_=tests.training.other_rank.Damage")
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert re.search(
        r"error: step 3, layer 2, image \S+: hidden states of the backbone are nan", ended.stderr
    )
    assert not list(Path("outputs").rglob("summary.json"))


@pytest.mark.slow
def test_two_processes_on_answers_equal_one(llava_folder: Path, pictures: Path) -> None:
    """Would catch answers of different lengths that count for more in one of the processes, and crops left behind."""
    lengths = ("red", "the red circle is left of it", "two")
    names = sorted(path.name for path in pictures.iterdir() if path.suffix in (".png", ".jpg"))
    asked = [
        {"image": name, "question": "how many are there", "answer": lengths[number % 3]}
        for number, name in enumerate(names)
    ]
    Path("asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    arguments = [
        *common(llava_folder, f"[asked.jsonl,{pictures}]"),
        "layer=[1,2]",
        "objective=both",
        "token_sr.kind=conditioned",
    ]
    run(*arguments)
    ended = command(*arguments, "trainer=ddp_cpu")
    assert ended.returncode == 0, ended.stderr
    same_weights(
        folder_of(*arguments, "trainer=ddp_cpu") / "token_sr", folder_of(*arguments) / "token_sr", 1e-3, 1e-5
    )


@pytest.mark.slow
def test_deepspeed_composes() -> None:
    """Catches a ZeRO-2 config that Lightning does not take."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    from hydra.utils import instantiate
    from lightning.pytorch.strategies import DeepSpeedStrategy

    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", overrides=["layer=1", "trainer=deepspeed"])
    strategy = instantiate(config.trainer.strategy)
    assert isinstance(strategy, DeepSpeedStrategy)
    assert strategy.config is not None
    assert strategy.config["zero_optimization"]["stage"] == 2


@pytest.mark.slow
def test_two_processes_per_job_of_a_multirun_equal_one(llava_folder: Path, pictures: Path) -> None:
    """Catches DDP with another global batch, other images per step, or gradients summed instead of averaged or accumulated.

    And a process without a held-out image of its own, which the other would wait for for ever, or whose measures count;
    child processes that run the whole sweep, and ranks that train different jobs.
    """
    arguments = [
        *common(llava_folder, pictures),
        "trainer.gradient_clip_val=0.02",
        "held_out=1",
        "global_pairs=16",
    ]
    layers = ("1", "[1,3]")
    swept = f"layer={','.join(layers)}"
    on_two = ["trainer=ddp_cpu", "device_pairs=4"]
    ended = command(*arguments, swept, *on_two, "hydra.sweep.dir=sweep", "--multirun")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("a step of 16 pairs: 2 device(s) x 4 pairs at once x 2 batch(es)") == 2
    assert not Path("outputs").exists()
    for layer in layers:
        own = [*arguments, f"layer={layer}"]
        alone = run(*own, "outputs=alone")
        together = Path("sweep") / run_name([*own, "trainer=ddp_cpu"])
        same_weights(
            together / "token_sr", folder_of(*own, outputs=Path("alone")) / "token_sr", rtol=1e-4, atol=1e-6
        )
        summary = json.loads((together / "summary.json").read_text())
        assert summary["steps"] == alone.steps == 5
        assert summary["layers"].keys() == alone.layers.keys()
        for name, measures in alone.layers.items():
            assert summary["layers"][name] == pytest.approx(measures, rel=1e-4)


@pytest.mark.slow
def test_deepspeed_equals_one_process(llava_folder: Path, pictures: Path) -> None:
    """Catches ZeRO-2 that trains or saves other weights than one process, and a resume that repeats images.

    Lightning and DeepSpeed run for real, on CPUs; only Lightning's checks for CUDA are taken out.
    """
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    arguments = [*common(llava_folder, pictures), "layer=[1,3]", "images=8", "epochs=5", "checkpoint_every=6"]
    run(*arguments)
    on_cpus = [
        "trainer=deepspeed",
        "trainer.strategy._target_=tests.training.deepspeed_cpu.CpuDeepSpeedStrategy",
        "trainer.devices=2",
        "trainer.precision=32-true",
    ]
    sharded = folder_of(*arguments, *on_cpus)
    killed = ["-m", "blink.train", *arguments, *on_cpus]
    ended = kills.command(*killed, until=kills.once_there(sharded, "step-6.ckpt"), number=signal.SIGTERM)
    assert ended.code == 143, ended.said
    assert len(list(sharded.glob("checkpoints/*"))) == 1
    again = command(*arguments, *on_cpus)
    assert again.returncode == 0, again.stderr
    assert "continuing from step" in again.stdout
    same_weights(sharded / "token_sr", folder_of(*arguments) / "token_sr", rtol=1e-4, atol=1e-6)
    assert [path.name for path in sharded.glob("checkpoints/*")] == ["step-20.ckpt"]


@pytest.mark.slow
def test_deepspeed_needs_gpus_and_one_layer_to_clip(llava_folder: Path, pictures: Path) -> None:
    """Catches a refusal that comes after the weights, and clipping that couples the layers."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    arguments = [*common(llava_folder, pictures), "trainer=deepspeed", "trainer.devices=1"]
    with pytest.raises(SystemExit, match="trainer=deepspeed needs CUDA GPUs"):
        run(*arguments, "layer=1")
    on_cpus = "trainer.strategy._target_=tests.training.deepspeed_cpu.CpuDeepSpeedStrategy"
    with pytest.raises(SystemExit, match="couples them; train one layer at a time"):
        run(*arguments, "layer=[1,2]", on_cpus, "trainer.gradient_clip_val=1.0")
