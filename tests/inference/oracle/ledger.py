"""What was compared with the oracle. Imports nothing heavy: the process that reports runs no tests."""

from dataclasses import dataclass, field


@dataclass
class Ledger:
    """What a test session compared; printed at its end.

    Attributes:
        samples: whose logits were compared.
        steps: events that were compared.
        set_aside: samples left out, since an event lies too close to a threshold to call.
        worst: largest difference of a logit, over the sample's largest logit.
        worst_ratio: largest difference of a saliency ratio.
        transitions: what an event did to what was alive before -> how often.
        families: name as in `family_of` -> samples, worst logit and worst ratio.
    """

    samples: int = 0
    steps: int = 0
    set_aside: int = 0
    worst: float = 0.0
    worst_ratio: float = 0.0
    transitions: dict[str, int] = field(default_factory=dict)
    families: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def of_family(self, family: str, samples: int = 0, worst: float = 0.0, worst_ratio: float = 0.0) -> None:
        """Count samples and differences for one family."""
        before, logit, ratio = self.families.get(family, (0, 0.0, 0.0))
        self.families[family] = (before + samples, max(logit, worst), max(ratio, worst_ratio))

    def add(self, other: "Ledger") -> None:
        """Add what another process compared."""
        self.samples += other.samples
        self.steps += other.steps
        self.set_aside += other.set_aside
        self.worst = max(self.worst, other.worst)
        self.worst_ratio = max(self.worst_ratio, other.worst_ratio)
        for name, count in other.transitions.items():
            self.transitions[name] = self.transitions.get(name, 0) + count
        for name, compared in other.families.items():
            self.of_family(name, *compared)


LEDGER = Ledger()
