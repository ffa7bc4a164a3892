"""The train command with callbacks that a user adds."""

import sys
from pathlib import Path
from typing import Any

import pytest

from blink.train import main
from blink.training.module import TokenSRTraining
from tests.training_runs import common, folder_of, run, same_weights

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]


EARLY = [
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=2",
    "callbacks.early_stopping.min_delta=10",
    "trainer.val_check_interval=2",
    "checkpoint_every=2",
]


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
