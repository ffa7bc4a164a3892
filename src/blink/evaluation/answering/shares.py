"""An evaluation over several processes: whole pictures are shared out, and the first process writes all rows, in their order.

Every process has the whole backbone, on a device of its own. Picture number i of those that are to be answered goes to
process i mod n, so that the work of a run follows from its settings and n alone. The others make for themselves what is
answered (a `Pass`) of the settings that they are sent, and read the questions; they get the first questions of their pictures,
and send rows.
"""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from blink.bench.base import Benchmark, Row, Sample
from blink.evaluation.answering.answerers import load_answerer
from blink.evaluation.answering.predict import Answerer, Asked, rows_of
from blink.evaluation.answering.rows import pictures
from blink.evaluation.planning.plan import Plan, make_plan
from blink.evaluation.planning.questions import samples_digest, trust_pictures
from blink.runs.command import end
from blink.runs.parallel.team import Message, Team, Work, serve, team
from blink.runs.signals import finishing_first
from blink.runs.values import UserError

_READY, _ROWS, _ENDED = "ready", "rows", "ended"
"""Keys of messages to the first process: the model is loaded; a picture's rows; there are no more."""

_STOP = {"stop": True}

_GRACE_SECONDS = 20.0
"""How long those that torchrun has started are waited for after a signal, which it has sent them, too."""


class Pass(NamedTuple):
    """What several processes answer together, as each of them finds it.

    Attributes:
        samples: those about one picture side by side.
        inputs: what the answers of each run depend on, as for `resume`.
        device: `model.device`.
        load: makes the answerer, whose runs are numbered as `inputs`.
    """

    benchmark: Benchmark
    samples: Sequence[Sample]
    inputs: Sequence[Mapping[str, Any]]
    device: str
    load: Callable[[], Answerer]


class Expected(NamedTuple):
    """What the first process has found, and the others are to find: digest of the samples, inputs of each run."""

    samples: str
    inputs: Sequence[Mapping[str, Any]]


class Settings(NamedTuple):
    """What a run's plan was made of: its composed config as plain containers, and its overrides."""

    config: Mapping[str, Any]
    overrides: Sequence[str]


class Shares:
    """Pictures shared out among this process, which is the first, and others.

    Args:
        answered: what this process answers.
        settings: what the others make the same of; JSON values.
        processes: how many there are, this one among them.
        module: that the others run, for `serve_passes`.
        asked: all pictures that are to be answered; the others begin at once.
    """

    def __init__(
        self, answered: Pass, settings: Message, processes: int, module: str, asked: Sequence[Asked]
    ) -> None:
        self._team: Team = team(processes, module)
        self._asked, self._threads = asked, torch.get_num_threads()
        own = 0 if self._team.launched else max(1, self._threads // processes)
        if own:
            torch.set_num_threads(own)
        _take_device(answered.device)
        common = {
            "settings": settings,
            "samples": samples_digest(answered.samples),
            "inputs": answered.inputs,
            "threads": own,
        }
        for rank in self._team.others:
            share = asked[rank::processes]
            pictures_of = [[picture.samples[0].id, list(picture.runs)] for picture in share]
            self._team.send(rank, {**common, "share": pictures_of})
        self._ready: set[int] = set()
        self._ended: set[int] = set()
        self._rows: dict[int, list[list[Row]]] = {}
        self._came = dict.fromkeys(self._team.others, 0)

    def wait_until_ready(self) -> None:
        """Wait until all others have loaded the backbone."""
        while len(self._ready) < len(self._team.others):
            self._take()
            self._team.check_stopped()
            self._team.wait()

    def rows(
        self, answer: Callable[[Sequence[Asked]], Iterator[list[list[Row]]]], stop: Callable[[], bool]
    ) -> Iterator[list[list[Row]]]:
        """The rows of each picture in turn, those that others answered among them.

        Args:
            answer: as this process answers its own share.
            stop: as in `Answerer.answer_many`.
        """
        count, told, until = self._team.processes, False, math.inf
        mine, numbers = answer(self._asked[::count]), iter(range(0, len(self._asked), count))
        try:
            for number in range(len(self._asked)):
                while number not in self._rows:
                    self._take()
                    if stop() and not told:
                        told = True
                        if self._team.launched:
                            until = time.monotonic() + _GRACE_SECONDS
                        for rank in self._team.others:
                            self._team.send(rank, _STOP)
                    if (own := next(mine, None)) is not None:
                        self._rows[next(numbers)] = own
                    elif number not in self._rows:
                        if told and (self._all_ended or time.monotonic() > until):
                            return
                        if not told:
                            self._team.check_stopped()
                        self._team.wait()
                yield self._rows.pop(number)
            while not self._all_ended:
                self._take()
                self._team.wait()
        finally:
            torch.set_num_threads(self._threads)

    @property
    def _all_ended(self) -> bool:
        return len(self._ended | self._team.stopped) == len(self._team.others)

    def _take(self) -> None:
        """Take what others have sent."""
        for rank, message in self._team.arrived():
            if _ROWS in message:
                self._rows[rank + self._came[rank] * self._team.processes] = message[_ROWS]
                self._came[rank] += 1
            elif _ENDED in message:
                self._ended.add(rank)
            else:
                self._ready.add(rank)


def sharing(
    plans: Sequence[Plan], settings: Sequence[Settings]
) -> Callable[[Sequence[Asked]], Shares] | None:
    """Returns what shares out the pictures of some runs, for `predict`; None where this process answers alone."""
    processes = plans[0].processes
    if processes == 1:
        return None
    message = {"runs": [[setting.config, list(setting.overrides)] for setting in settings]}
    return lambda asked: Shares(_pass_of(plans), message, processes, __spec__.name, asked)


def _pass_of(plans: Sequence[Plan]) -> Pass:
    """What runs that agree in backbone and questions answer together."""
    first = plans[0]
    return Pass(
        first.benchmark,
        first.samples,
        [plan.inputs for plan in plans],
        first.backbone.device,
        lambda: load_answerer(plans),
    )


def _made(settings: Message, expected: Expected) -> Pass:
    """The same, made of settings in one of the others."""
    trust_pictures(expected.samples, expected.inputs[0]["pictures"])
    return _pass_of(
        [make_plan(OmegaConf.create(config), overrides) for config, overrides in settings["runs"]]
    )


def _answer(work: Work, make: Callable[[Message, Expected], Pass]) -> None:
    """Answer a share of the pictures, in one of the others."""
    message = work.message
    if message == _STOP:  # of a pass that this process has answered already
        return
    expected = Expected(message["samples"], message["inputs"])
    found = make(message["settings"], expected)
    samples = samples_digest(found.samples)
    for theirs, mine in zip(expected.inputs, found.inputs, strict=True):
        _check_same({**theirs, "samples": expected.samples}, {**mine, "samples": samples})
    share: list[list[Any]] = message["share"]
    if message["threads"]:
        torch.set_num_threads(message["threads"])
    if share:
        _take_device(found.device)
        answerer = found.load()
    work.send({_READY: True})
    if share:
        about = {batch[0].id: batch for _, batch in pictures(found.samples)}
        asked = [Asked(about[first], runs) for first, runs in share]
        with finishing_first() as pending:
            stopped = False

            def stop() -> bool:
                nonlocal stopped
                stopped = stopped or pending.requested or work.taken_back()
                return stopped

            for rows in rows_of(found.benchmark, answerer, asked, stop):
                work.send({_ROWS: rows})
            work.send({_ENDED: True})
    else:
        work.send({_ENDED: True})


def _check_same(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise UserError where this process reads other files than the first."""
    differing = [
        f"{key}: {expected[key]} there, {found.get(key)} here"
        for key in expected
        if expected[key] != found.get(key)
    ]
    if differing:
        raise UserError(
            f"process {os.environ['RANK']} finds other files than the first one ({'; '.join(differing)}): they need the same"
        )


def _take_device(device: str) -> None:
    """Make the GPU that is this process's own the one that "cuda" means."""
    if device != "cpu" and torch.cuda.is_available():
        number = int(os.environ.get("LOCAL_RANK", "0"))
        if number >= torch.cuda.device_count():
            raise UserError(
                f"process {number} of this machine, which has {torch.cuda.device_count()} GPUs: start one process per GPU"
            )
        torch.cuda.set_device(number)


def serve_passes(make: Callable[[Message, Expected], Pass], *, parent: int | None = None) -> None:
    """What processes but the first do: answer their shares of passes, until the first lets them go.

    Args:
        make: makes a pass of the settings that the first has sent, and what it is to find.
        parent: as for `serve`.
    """
    lacking = [
        name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if lacking:
        end(
            f"error: this is not the first of several processes, and {', '.join(lacking)} is not set: several answer together "
            "by devices= or torchrun"
        )
    _quieten()
    serve(lambda work: _answer(work, make), parent=parent)


def serve_first() -> None:
    """What processes but the first do, where torchrun has started several."""
    serve_passes(_made)


def _quieten() -> None:
    """One process reports for all."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("blink").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    serve_passes(_made, parent=int(sys.argv[1]))
