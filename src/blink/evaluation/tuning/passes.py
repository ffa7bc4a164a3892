"""Settings of a search that are answered in one pass over the pictures, by one process or several."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from blink.evaluation.answering.answerers import BackboneAnswerer
from blink.evaluation.answering.predict import Asked
from blink.evaluation.answering.shares import Expected, Pass, Settings, Shares, serve_passes
from blink.evaluation.planning.questions import trust_pictures
from blink.evaluation.tuning.plan import Plan, make_plan
from blink.evaluation.tuning.space import Setting
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.runs.parallel.ahead import default_workers
from blink.runs.parallel.team import Message


class Passes:
    """The passes of a search, whose answerers have backbone, engine and modules in common.

    Args:
        plan: of the search.
        settings: what it was made of, for other processes.
    """

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self.plan, self._made_of = plan, settings
        self._answerer: BackboneAnswerer | None = None

    def of(self, settings: Sequence[Setting], bench: int, half: str) -> Pass:
        """The pass that answers some settings on a half of the questions of one of the benchmarks.

        Args:
            bench: number of the benchmark.
        """
        asked = self.plan.asked[bench]
        return Pass(
            asked.benchmark,
            asked.half(half),
            [{**asked.inputs, **self.plan.inputs}] * len(settings),
            self.plan.backbone.device,
            lambda: self._loaded(settings, asked.benchmark.max_new_tokens),
        )

    def sharing(
        self, settings: Sequence[Setting], bench: int, half: str
    ) -> Callable[[Sequence[Asked]], Shares] | None:
        """What shares out the pictures of such a pass, for `predict`; None where this process answers alone."""
        processes = self.plan.processes
        if processes == 1:
            return None
        message = {
            "search": [self._made_of.config, list(self._made_of.overrides)],
            "pictures": [[each.inputs["all_samples"], each.inputs["pictures"]] for each in self.plan.asked],
            "settings": [[setting.method, _written(setting.policy)] for setting in settings],
            "bench": bench,
            "half": half,
        }
        answered = self.of(settings, bench, half)
        return lambda asked: Shares(answered, message, processes, __spec__.name, asked)

    def _loaded(self, settings: Sequence[Setting], max_new_tokens: int) -> BackboneAnswerer:
        """An answerer of these settings; backbone, engine and modules are those of the one before."""
        plan = self.plan
        runs = [
            Run(setting.policy, plan.token_sr if setting.method == "blink" else None) for setting in settings
        ]
        if self._answerer is None:
            self._answerer = BackboneAnswerer(
                plan.backbone.load(),
                plan.template,
                runs,
                max_new_tokens=max_new_tokens,
                memory_gb=plan.memory_gb,
                pictures=plan.pictures,
                workers=default_workers(plan.processes) if plan.workers is None else plan.workers,
            )
            return self._answerer
        return self._answerer.with_runs(runs, max_new_tokens)


def serve_first() -> None:
    """What processes but the first do, where torchrun has started several."""
    serve_passes(_made)


def _made(settings: Message, _: Expected) -> Pass:
    """A pass that the first process has described, in one of the others."""
    for samples, digest in settings["pictures"]:
        trust_pictures(samples, digest)
    passes = _passes(json.dumps(settings["search"]))
    chosen = [
        Setting(method, None if policy is None else Policy(**policy))
        for method, policy in settings["settings"]
    ]
    return passes.of(chosen, settings["bench"], settings["half"])


@lru_cache(maxsize=1)
def _passes(search: str) -> Passes:
    """The passes of a search whose settings are given as JSON; the last one is kept, with its answerer."""
    config, overrides = json.loads(search)
    return Passes(make_plan(OmegaConf.create(config), overrides), Settings(config, overrides))


def _written(policy: Policy | None) -> dict[str, Any] | None:
    """A policy as JSON values."""
    return None if policy is None else asdict(policy) | {"layers": list(policy.layers)}


if __name__ == "__main__":
    serve_passes(_made, parent=int(sys.argv[1]))
