"""`python -m blink.explain`: what Blink did for one answer, or for the answers in which two runs differ.

Thin: it reads the config, has all of it checked before any weight is read, and hands flat arguments on. Heavy imports
wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from blink.runs.command import hydra_command, one_line_errors, reject_added_keys
from blink.runs.files import write_json, write_text
from blink.runs.folder import open_run
from blink.runs.values import choice, whole_number

if TYPE_CHECKING:
    from blink.analysis.explain.answers import Side
    from blink.analysis.explain.flips import Flips
    from blink.bench import Sample
    from blink.evaluation.plan import Checkpoint
    from blink.model.prompts import Template

log = logging.getLogger("blink.explain")  # not __main__, which `python -m` calls it

PAGE = "explain.html"
NUMBERS = "explain.json"

_OF_FLIPS = ("runs", "limit")
_OF_BOTH = ("explain", "outputs", "fresh")


class Asked(NamedTuple):
    """One question whose settings were checked."""

    sample: Sample
    backbone: Checkpoint
    template: Template
    sides: tuple[Side, Side]


@hydra_command("explain")
def main(config: DictConfig) -> None:
    """Write the page of one answer, or those of flips."""
    from blink.analysis.explain.flips import Flips
    from blink.evaluation.plan import plain

    overrides = list(HydraConfig.get().overrides.task)
    with one_line_errors():
        reject_added_keys(overrides)
        settings = plain(config)
        work = _plan(config, settings, overrides)
        folder = open_run(Path(config.outputs), "explain", overrides, settings, fresh=config.fresh)
    if isinstance(work, Flips):
        _explain_flips(work, folder)
    else:
        _explain_one(work, folder)


def _plan(config: DictConfig, settings: dict[str, Any], overrides: Sequence[str]) -> Asked | Flips:
    """Check all settings, and read runs and questions, but no weights.

    Raises:
        ValueError: what the user asked for cannot be explained; says why.
    """
    from blink.analysis.explain.flips import find_flips

    given = [override.partition("=")[0] for override in overrides]
    if settings["explain"] == "flips":
        if unread := [key for key in given if key not in (*_OF_FLIPS, *_OF_BOTH)]:
            raise ValueError(
                f"explain=flips takes backbone, policies and questions from the runs; {', '.join(unread)} would change nothing"
            )
        runs, limit = settings["runs"], settings["limit"]
        whole_number("limit", limit)
        if not isinstance(runs, list):
            raise ValueError(
                f"runs={runs!r}: give the folders of two finished evaluations, runs=[FOLDER,FOLDER]"
            )
        return find_flips([Path(str(run)).expanduser() for run in runs], limit)
    if settings["explain"] != "one":
        raise ValueError(f"explain={settings['explain']!r}: expected one or flips")
    if unread := [key for key in given if key in _OF_FLIPS]:
        raise ValueError(f"{', '.join(unread)}: only explain=flips reads that")
    return _ask(config, settings)


def _ask(config: DictConfig, settings: dict[str, Any]) -> Asked:
    """Check one question and how it is to be answered."""
    from blink.analysis.cases import one_case
    from blink.analysis.explain.answers import Side
    from blink.bench import BENCHMARKS
    from blink.evaluation.checks import check_fit, check_values, modules_folder, outlined, training_differs
    from blink.evaluation.plan import Checkpoint, policy_of
    from blink.inference.algorithm import Run
    from blink.model.prompts import template_named

    check_values(settings)
    model, method = config.model, config.method
    if not method.scans:
        raise ValueError("method=vanilla: it is what the answer is held against; choose blink or interp")
    choice("preset", settings["preset"], BENCHMARKS)
    for key in ("image", "question"):
        if not isinstance(settings[key], str):
            raise ValueError(f"{key}={settings[key]!r}: give image=FILE and question='...'")
    longest = whole_number("max_new_tokens", settings["max_new_tokens"])
    template = template_named(model.template)
    [sample] = one_case(Path(settings["image"]).expanduser(), settings["question"], settings["box"])
    template.prompt(sample.question)
    backbone = outlined(model.path, revision=model.revision)
    policy, sources = policy_of(config, settings["preset"], backbone)
    token_sr = None
    if method.trained:
        token_sr = modules_folder(settings["token_sr"], model.path, tuple(policy.layers))
    check_fit(backbone, tuple(policy.layers), policy.patches, token_sr)
    if token_sr is not None:
        for warning in training_differs(token_sr, model.path, template.prefix):
            log.warning("%s", warning)
    log.info(
        "layers %s (%s), expand above %g (%s), drop below %g (%s)",
        ", ".join(map(str, policy.layers)),
        sources["layers"],
        policy.tau_exp,
        sources["tau_exp"],
        policy.tau_drop,
        sources["tau_drop"],
    )
    name = "with Blink" if method.trained else "with Blink-interp"
    sides = Side("without Blink", Run(), longest), Side(name, Run(policy, token_sr), longest)
    checkpoint = Checkpoint(**{key: model[key] for key in Checkpoint._fields})
    return Asked(sample, checkpoint, template, sides)


def _explain_one(asked: Asked, folder: Path) -> None:
    """Print and write the explanation of one answer."""
    from blink.analysis.explain.answers import Explainer
    from blink.analysis.explain.page import page, page_data
    from blink.analysis.explain.screen import print_explanation
    from blink.evaluation.answerers import load_checkpoint
    from blink.evaluation.compare import screen

    explained = Explainer(load_checkpoint(asked.backbone), asked.template, asked.sides)(asked.sample)
    write_text(folder / PAGE, page(explained))
    write_json(folder / NUMBERS, page_data(explained))
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
