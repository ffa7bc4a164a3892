"""`python -m blink.explain`: what Blink did for one answer, or for the answers in which two runs differ.

Thin: it reads the config, has all of it checked before any weight is read, and hands flat arguments on. Heavy imports
wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from blink.runs.command import Job, hydra_command
from blink.runs.files import write_json, write_text
from blink.runs.provenance import note_process, provenance

if TYPE_CHECKING:
    from blink.analysis.explain.flips import Flips
    from blink.analysis.explain.plan import OneQuestion

PAGE = "explain.html"
NUMBERS = "explain.json"


@hydra_command("explain")
def main(config: DictConfig, job: Job) -> None:
    """Write the page of one answer, or those of flips."""
    from blink.analysis.explain.flips import Flips

    config, plan = planned(config, job.overrides)
    folder = job.open_folder(config)
    record = provenance("explain", job.overrides, seed=config.seed, inputs=plan.inputs)
    note_process(folder, record)
    if isinstance(plan, Flips):
        _explain_flips(plan, folder)
    else:
        _explain_one(plan, folder, record)


def planned(config: DictConfig, overrides: list[str]) -> tuple[DictConfig, OneQuestion | Flips]:
    """Return the config with the values of a preset file, and the checked plan.

    Raises:
        UserError: something does not fit.
    """
    from blink.analysis.explain.plan import make_plan
    from blink.evaluation.planning.asking import with_preset_file

    config = with_preset_file(config, overrides)
    return config, make_plan(config, overrides)


def check_job(config: DictConfig, overrides: list[str], *, here: bool) -> None:
    """Check a job of a multirun, its question or finished runs among the rest, but no weights; wherever it will run.

    Raises:
        UserError: something does not fit.
    """
    planned(config, overrides)


def _explain_one(asked: OneQuestion, folder: Path, record: Mapping[str, Any]) -> None:
    """Print and write the explanation of one answer."""
    from blink.analysis.explain.answers import Explainer
    from blink.analysis.explain.page import page, page_data
    from blink.analysis.explain.screen import print_explanation
    from blink.evaluation.compare import screen

    explained = Explainer(asked.backbone.load(), asked.template, asked.sides)(asked.sample)
    write_text(folder / PAGE, page(explained))
    write_json(folder / NUMBERS, page_data(explained) | {"provenance": record})
    console = screen()
    print_explanation(explained, console)
    for name in (PAGE, NUMBERS):
        console.print(str(folder / name), soft_wrap=True)


def _explain_flips(flips: Flips, folder: Path) -> None:
    """Write the pages of flips."""
    from blink.analysis.explain.flips import INDEX, write_pages
    from blink.evaluation.compare import screen

    first, second = flips.runs
    gained, lost = flips.test.only_second, flips.test.only_first
    console = screen()
    console.print(
        f"{second.label} against {first.label} on {flips.asked:,} questions: {gained} gained, {lost} lost "
        f"(McNemar's p {flips.test.p:.3g})",
        soft_wrap=True,
    )
    if gained + lost > len(flips.chosen):
        console.print(
            f"explaining {len(flips.chosen)} of the {gained + lost} flips, spread evenly (limit={len(flips.chosen)})",
            soft_wrap=True,
        )
    for path in write_pages(flips, folder):
        console.print(str(path), soft_wrap=True)
    assert (folder / INDEX).is_file()


if __name__ == "__main__":
    main()
