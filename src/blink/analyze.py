"""`python -m blink.analyze figure=NAME`: the paper's figures.

Thin: all settings are checked before any weight is read, and a figure whose inputs did not change since it was drawn is
returned as it is. Heavy imports wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from blink.runs.command import Job, hydra_command
from blink.runs.files import as_json, read_json, short_digest, write_json
from blink.runs.inputs.preset_file import with_preset
from blink.runs.provenance import INPUTS, note_process, provenance
from blink.runs.values import fits

if TYPE_CHECKING:
    from blink.analysis.figures.plan import Plan

PARTS = "parts"
"""Folder of what was measured so far, in the run's folder."""

log = logging.getLogger("blink.analyze")  # not __main__, which `python -m` calls it


@hydra_command("analyze")
def main(config: DictConfig, job: Job) -> None:
    """Draw one figure, or return it if it was drawn before from the same inputs."""
    from blink.runs.style import look, save

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph of a PDF
    config, plan = planned(config, job.overrides)
    folder = job.open_folder(config)
    files = drawn_before(folder, plan.inputs)
    record = provenance("analyze", job.overrides, seed=config.seed, inputs=plan.inputs)
    if files is None:
        note_process(folder, record)
        drawn = plan.draw(folder / PARTS)
        drawn = drawn._replace(numbers={**drawn.numbers, "provenance": record})
        with look():
            names = save(drawn, config.figure.name, folder)
        files = {name: _digest(folder / name) for name in names}
        write_json(folder / INPUTS, {"inputs": plan.inputs, "files": files})
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    for file in files:
        print(folder / file)


def planned(config: DictConfig, overrides: list[str]) -> tuple[DictConfig, Plan]:
    """Return the config with the values of a preset file, and the checked plan.

    Raises:
        UserError: something does not fit.
    """
    from blink.analysis.figures.plan import make_plan
    from blink.evaluation.planning.settings import reject_training_keys

    reject_training_keys(overrides)
    config = with_preset(config, overrides)
    return config, make_plan(config)


def check_job(config: DictConfig, overrides: list[str], *, here: bool) -> None:
    """Check a job of a multirun, its questions or finished runs among the rest, but no weights; wherever it will run.

    Raises:
        UserError: something does not fit.
    """
    planned(config, overrides)


def drawn_before(folder: Path, inputs: Mapping[str, Any]) -> Mapping[str, str | None] | None:
    """The files of a figure that was drawn from the same inputs, and their digests; None if it has to be drawn."""
    path = folder / INPUTS
    if not path.exists():
        return None
    try:
        before = read_json(path)
        known, files = before["inputs"], before["files"]
    except (LookupError, TypeError, ValueError):
        log.warning("%s is damaged: drawing anew", path)
        return None
    if known != as_json(inputs):
        log.info("drawn before from other inputs: drawing anew")
        return None
    if not fits(files, Mapping[str, str]):
        return None  # of an earlier version
    if changed := [name for name in files if _digest(folder / name) != files[name]]:
        log.info("drawn before, but %s is not as it was: drawing anew", ", ".join(changed))
        return None
    log.info("drawn before: %s", folder)
    return dict(files)


def _digest(path: Path) -> str | None:
    """A hash of a file's content; None if there is no such file."""
    return short_digest(path.read_bytes()) if path.is_file() else None


if __name__ == "__main__":
    main()
