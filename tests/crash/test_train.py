"""`python -m blink.train`, killed: the same command until it is done, and then the same weights and nothing else."""

import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.crash.kills import at_random, command, files_in, in_writing
from tests.training_runs import common, folder_of, run, same_weights

SECONDS = 12.0
"""About how long a start and its steps take."""


def overrides(backbone: Path, pictures: Path, *more: str) -> list[str]:
    """A run of 22 steps whose checkpoints, of 20 MB, take a while to write."""
    return [
        *common(backbone, pictures),
        "layer=[1,2]",
        "epochs=2",
        "token_sr.hidden=[256,256]",
        "trainer.val_check_interval=7",
        "checkpoint_every=2",
        *more,
    ]


@pytest.fixture(scope="module")
def whole(llava_folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    outputs = tmp_path_factory.mktemp("whole")
    return Path(run(*overrides(llava_folder, pictures, f"outputs={outputs}")).token_sr).parent


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
def test_killed_until_it_is_done(
    llava_folder: Path,
    pictures: Path,
    tmp_path: Path,
    elsewhere: Path,
    whole: Path,
    kills: int,
    moments: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Would catch a torn checkpoint, steps done twice or not at all, halves of files that stay behind, and what is written
    to the temporary folder first, since moving it to another file system is no single step.

    Killed in turns while a checkpoint is being written, and anywhere.
    """
    arguments = overrides(llava_folder, pictures, f"outputs={elsewhere}")
    folder = folder_of(*arguments, outputs=elsewhere)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for number in range(kills):
        if number % 2:
            moment = at_random(moments, SECONDS)
        else:
            moment = in_writing(folder, f"step-{2 * moments.integers(1, 11)}.ckpt", moments)
        ended = command("-m", "blink.train", *arguments, until=moment, temporary=temporary)
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended.said
        assert len(list(folder.glob("checkpoints/step-*.ckpt"))) <= 2  # two between a rename and a removal
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    run(*arguments)
    same_weights(folder / "token_sr", whole / "token_sr")
    assert files_in(folder) == files_in(whole)
    assert files_in(temporary) == []
