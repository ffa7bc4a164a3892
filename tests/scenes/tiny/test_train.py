"""Trainings of the tiny backbone that are killed, continued and averaged. Covers `stages.py` and `losses.py`, too."""

from pathlib import Path

import pytest
import torch

from blink.scenes.ask import QUESTION_KINDS
from blink.scenes.tiny.lessons import Course, PatchLessons, QuestionLessons
from blink.scenes.tiny.stages import Stage
from blink.scenes.tiny.train import Trainer

COURSE = Course(dict.fromkeys(QUESTION_KINDS, 1.0), {"easy": 1.0, "hard": 1.0}, long=0.5, kept=20)


@pytest.mark.slow
def test_a_killed_training_ends_like_one_that_was_not(tmp_path: Path) -> None:
    """Would catch a resumed training that starts its optimizer, schedule or batches anew."""
    stages = (
        Stage("vision", "vision", steps=2, batch=2, rate=1e-3, warmup=1, decay=1),
        Stage("basics", "language", steps=3, batch=1, rate=1e-3, warmup=1, decay=2, course=COURSE),
    )
    whole, killed = (Trainer(tmp_path / name, seed=1, compiled=False) for name in ("whole", "killed"))
    for trainer in (whole, killed):
        trainer.folder.mkdir()
    whole.run(stages)
    lessons = killed.lessons
    killed.lessons = lambda stage: _Broken(lessons(stage)) if stage.name == "basics" else lessons(stage)  # type: ignore[assignment,return-value]
    killed.save_seconds = 0
    with pytest.raises(RuntimeError, match="killed"):
        killed.run(stages)
    again = Trainer(tmp_path / "killed", seed=1, compiled=False)
    again.run(stages)
    for (name, weight), other in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=0, msg=name)


class _Broken(torch.utils.data.Dataset):
    """Lessons that fail at their third step, as a kill would."""

    def __init__(self, lessons: QuestionLessons | PatchLessons) -> None:
        self.inner = lessons

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, step: int) -> object:
        if step == 2:
            raise RuntimeError("killed")
        return self.inner[step]


@pytest.mark.slow
def test_training_goes_on_from_a_trained_backbone(tmp_path: Path) -> None:
    """Would catch a start from random weights, or stages before the named one run again."""
    stages = (
        Stage("vision", "vision", steps=1, batch=1, rate=1e-3, warmup=1, decay=1),
        Stage("basics", "language", steps=1, batch=1, rate=0.0, warmup=1, decay=1, course=COURSE),
    )
    first = Trainer(tmp_path, seed=1, compiled=False)
    first.model.save_pretrained(tmp_path / "trained")
    again = Trainer(tmp_path, seed=2, compiled=False)
    again.start_from(tmp_path / "trained")
    again.run(stages, first=1)
    for weight, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-6)


def test_a_stage_without_steps_averages_weights(tmp_path: Path) -> None:
    """Would catch a share that goes to the wrong side, and a stage without steps that trains or fails."""
    one, other = (Trainer(tmp_path, seed=seed, compiled=False) for seed in (1, 2))
    one.save_weights("early")
    expected = [a.lerp(b, 0.7) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)]
    other.run((Stage("mean", "all", 0, 1, 0.0, 0, 0, COURSE, average=("early", 0.3)),))
    for weight, mean in zip(other.model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight, mean)
