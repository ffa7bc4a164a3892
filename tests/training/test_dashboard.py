"""What a training run tells W&B, killed on the way and continued."""

from pathlib import Path
from typing import Any

import pytest

from blink.runs.names import run_name
from blink.training.dashboard import STEP, TrainingMonitor
from tests import models
from tests.told_runs import ToldRun
from tests.training_runs import run, same_weights

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_same_run(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_runs: list[ToldRun]
) -> None:
    """Would catch a resumed run with another id, TokenSR's KL under interpolation's name, norms of one layer alone,
    and pictures that cost a run its determinism.

    Two images are all, so that every step sees the same pairs. The run dies in step 7 of 8 and goes on from step 4.
    """
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(3):
        models.picture(seed, (48, 40)).save(pictures / f"{seed}.png")
    overrides = [
        f"model.path={llava_folder}",
        f"data.root={pictures}",
        "layer=[1,2]",
        "held_out=1",
        "epochs=8",
        "workers=0",
        "checkpoint_every=4",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "trainer.deterministic=false",
        "trainer.log_every_n_steps=2",
        "trainer.val_check_interval=4",
    ]
    logger = ["logger.mode=offline", "logger.pictures_every=4"]
    run(*overrides, "logger=none", "outputs=unwatched")

    end = TrainingMonitor.on_train_batch_end

    def dies(self: TrainingMonitor, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == 7:
            raise RuntimeError("killed")
        end(self, trainer, *arguments)

    monkeypatch.setattr(TrainingMonitor, "on_train_batch_end", dies)
    with pytest.raises(RuntimeError, match="killed"):
        run(*overrides, *logger)
    monkeypatch.setattr(TrainingMonitor, "on_train_batch_end", end)
    summary = run(*overrides, *logger)

    folder = Path("outputs") / "train" / run_name([*overrides, *logger])
    same_weights(folder / "token_sr", Path("unwatched") / "train" / folder.name / "token_sr")
    killed, continued = told_runs
    assert killed.identity == continued.identity
    assert killed.identity["job_type"] == "training"
    assert killed.identity["name"][:100] == folder.name[:100]  # W&B's names are shorter
    assert killed.config["layer"] == [1, 2]
    for section in ("train", "train_layers", "held_out", "features"):
        assert killed.axes[f"{section}/*"] == STEP
    steps = [[row[STEP] for row in part.history if "train/loss" in row] for part in (killed, continued)]
    assert steps == [[1, 3, 5], [5, 7]]
    rows = [row for part in (killed, continued) for row in part.history if "train/loss" in row]
    plain = {row["train_layers/layer_1/kl_interpolation"] for row in rows}
    assert max(plain) == pytest.approx(min(plain), rel=1e-4)
    assert len({row["train_layers/layer_1/kl_token_sr"] for row in rows}) > 2
    for row in rows:
        each = {
            name: [row[f"train_layers/layer_{layer}/{name}"] for layer in (1, 2)]
            for name in ("kl_token_sr", "gradient_norm")
        }
        assert row["train/loss"] == pytest.approx(sum(each["kl_token_sr"]), rel=1e-4)
        assert row["train/gradient_norm"] ** 2 == pytest.approx(
            sum(norm**2 for norm in each["gradient_norm"]), rel=1e-4
        )
        assert row["train/pairs_per_second"] > 0
        assert row["train/memory_gb"] > 0
    assert [row["train/learning_rate"] for row in rows][-1] < 1e-4 / 4
    pictured = [
        [row[STEP] for row in part.history if "features/layer_2" in row] for part in (killed, continued)
    ]
    assert pictured == [[0, 4], [8]]
    assert continued.column("features/layer_2")[-1].image.size == (496, 196)
    means = [summary.layers[layer]["kl_token_sr"] for layer in ("1", "2")]
    assert continued.column("held_out/kl_token_sr")[-1] == pytest.approx(sum(means) / 2, rel=1e-4)
    lines = continued.table("held_out/kl_per_layer").data
    assert {(row[0], row[1]) for row in lines} == {
        (layer, name) for layer in (1, 2) for name in ("interpolation", "TokenSR")
    }
    assert continued.ended
