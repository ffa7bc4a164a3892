"""The training schedule of the tiny backbone: stages with their question mixtures, lengths and learning rates. Data only."""

from dataclasses import dataclass

from blink.scenes.ask import QUESTION_KINDS
from blink.scenes.tiny.lessons import Course


@dataclass(frozen=True)
class Stage:
    """One stage: what is trained, for how long, how fast.

    Attributes:
        trains: "vision", "projector", "language" or "all".
        steps, batch: optimizer steps (0: weights are only averaged), and pictures per step.
        rate, warmup, decay: peak learning rate; steps of linear warm-up, and of linear decay to zero at the end.
        course: mixture of questions; None for the stages with dense labels.
        average: an earlier stage, and the share of its final weights in the initial weights of this one.
    """

    name: str
    trains: str
    steps: int
    batch: int
    rate: float
    warmup: int
    decay: int
    course: Course | None = None
    average: tuple[str, float] | None = None

    def rate_at(self, step: int) -> float:
        """Learning rate of optimizer step ``step`` (from 0)."""
        up = (step + 1) / max(1, self.warmup)
        down = (self.steps - step) / max(1, self.decay)
        return self.rate * min(1.0, up, down)


def _mixture(*weights: float) -> dict[str, float]:
    """Question kind -> weight, in the order of `QUESTION_KINDS`: existence, colour, shape, count, where, relation, describe."""
    return dict(zip(QUESTION_KINDS, weights, strict=True))


BASIC = {"existence": 2.0, "colour": 2.0, "shape": 2.0, "where": 1.0, "describe": 1.0}
FULL = _mixture(2.0, 1.5, 1.5, 1.5, 1.5, 2.5, 0.5)
PLACES = _mixture(1.0, 2.0, 1.0, 1.5, 3.0, 3.0, 0.5)
PAIRS = _mixture(0.7, 1.5, 0.7, 3.0, 2.0, 4.0, 0.5)
BALANCE = _mixture(1.0, 1.0, 1.0, 3.0, 4.0, 3.0, 0.3)
RELATIONS = _mixture(0.7, 0.8, 0.5, 2.0, 3.0, 5.0, 0.3)
CORNERS = _mixture(1.2, 1.2, 1.0, 2.5, 6.0, 2.5, 0.3)
NINE = _mixture(1.0, 1.0, 1.0, 2.0, 8.0, 2.0, 0.2)
STAGES = (
    Stage("vision", "vision", steps=3000, batch=32, rate=1.5e-3, warmup=100, decay=800),
    Stage("projector", "projector", steps=400, batch=32, rate=3e-3, warmup=20, decay=200),
    Stage(
        "basics", "language", 800, 8, 3e-3, 50, 1, Course(BASIC, {"easy": 1.0, "ordinary": 0.5}, long=0.2, kept=62)
    ),
    Stage(
        "mixture", "language", 1900, 8, 3e-3, 1, 1,
        Course(FULL, {"easy": 0.3, "ordinary": 0.5, "hard": 0.2}, long=0.35, kept=62),
    ),
    Stage(
        "places", "language", 1900, 8, 3e-3, 20, 1,
        Course(PLACES, {"easy": 0.45, "ordinary": 0.45, "hard": 0.1}, long=0.25, kept=62),
    ),
    Stage(
        "pairs", "language", 1000, 8, 3e-3, 20, 1,
        Course(PAIRS, {"easy": 0.45, "ordinary": 0.45, "hard": 0.1}, long=0.25, kept=62),
    ),
    Stage(
        "whole", "all", 1000, 8, 2e-3, 50, 950,
        Course(FULL, {"easy": 0.25, "ordinary": 0.5, "hard": 0.25}, long=0.35),
    ),
    Stage(
        "relations", "language", 1700, 8, 3e-3, 30, 1,
        Course(RELATIONS, {"easy": 0.25, "ordinary": 0.6, "hard": 0.15}, long=0.3, kept=62),
    ),
    Stage(
        "final", "all", 350, 8, 2e-3, 20, 330,
        Course(RELATIONS, {"easy": 0.2, "ordinary": 0.55, "hard": 0.25}, long=0.35),
    ),
    Stage(
        "balance", "all", 240, 8, 1.5e-3, 15, 225,
        Course(BALANCE, {"easy": 0.15, "ordinary": 0.65, "hard": 0.2}, long=0.3), average=("whole", 0.4),
    ),
    Stage(
        "corners", "all", 500, 8, 2e-3, 20, 480,
        Course(CORNERS, {"easy": 0.15, "ordinary": 0.65, "hard": 0.2}, long=0.3),
    ),
    Stage(
        "nine", "all", 260, 8, 1.5e-3, 15, 245,
        Course(NINE, {"easy": 0.1, "ordinary": 0.7, "hard": 0.2}, long=0.3), average=("balance", 0.5),
    ),
    Stage("mean", "all", 0, 8, 0.0, 0, 0, Course(NINE, {"ordinary": 1.0}), average=("balance", 0.3)),
)  # fmt: skip
