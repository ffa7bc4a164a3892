"""The search: settings suggested batch by batch (optuna's TPE sampler), and the same ones again when it goes on.

Nothing of the sampler is stored. Suggestions follow from the seed and from what earlier settings gained, and that
follows from stored answers: a search that was stopped is gone through again, without answering anything twice, and ends
as it would have.
"""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from blink.bench.statistics import Floats
from blink.evaluation.tuning.measure import Answered
from blink.evaluation.tuning.space import Setting, Space

log = logging.getLogger(__name__)

_SAMPLED_AT_RANDOM = 0.25
"""Share of the settings before the sampler relies on what it has seen."""

_STARTS = 0.25
"""Share of the settings that the look suggests."""


class Trial(NamedTuple):
    """A setting as it was suggested, and its answers; several trials may be of one setting."""

    number: int
    answered: Answered


def search(
    space: Space,
    ratios: Mapping[int, Floats],
    order: Sequence[int],
    measure: Callable[[Sequence[Setting]], list[Answered]],
    *,
    trials: int,
    batch: int,
    seed: int,
) -> list[Trial]:
    """Suggest and measure settings.

    Args:
        ratios: of the look, as for `Space.setting`.
        order: layers, the most promising first.
        measure: answers settings in one pass.
        trials: how many settings to suggest.
        batch: how many of them go together.

    Returns:
        All trials, in their order.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed % 2**32,
            n_startup_trials=max(1, round(trials * _SAMPLED_AT_RANDOM)),
            multivariate=True,
            constant_liar=True,  # trials of one batch do not know of each other
        )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for start in space.starts(order, max(1, round(trials * _STARTS))):
        study.enqueue_trial(start)
    known: dict[Setting, Answered] = {}
    found: list[Trial] = []
    while len(found) < trials:
        asked = [study.ask() for _ in range(min(batch, trials - len(found)))]
        settings = [space.setting(trial, ratios) for trial in asked]
        new = [setting for setting in dict.fromkeys(settings) if setting not in known]
        log.info("settings %d to %d of %d", len(found) + 1, len(found) + len(asked), trials)
        if new:
            known |= zip(new, measure(new), strict=True)
        for trial, setting in zip(asked, settings, strict=True):
            study.tell(trial, known[setting].accuracy.value)
            found.append(Trial(trial.number, known[setting]))
    return found


def distinct(trials: Sequence[Trial]) -> list[Answered]:
    """The settings of trials, each once, in order of first appearance."""
    found: dict[Setting, Any] = {}
    for trial in trials:
        found.setdefault(trial.answered.setting, trial.answered)
    return list(found.values())
