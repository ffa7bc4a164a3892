"""What `blink.explain` is to explain: its config, checked, and the question or the finished runs.

Of the backbone only the config is read.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from blink.analysis.cases import one_case
from blink.analysis.explain.answers import Side
from blink.analysis.explain.flips import Flips, find_flips
from blink.bench import Sample
from blink.evaluation.planning.asking import asked_of
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.fit import check_taken
from blink.evaluation.planning.questions import check_pictures
from blink.inference.boxes import Window, seen_box
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.prompts import Template
from blink.model.token_sr import check_patches
from blink.runs.config.settings import plain
from blink.runs.files import short_digest
from blink.runs.inputs.pictures import ORIENTATIONS, Reading, Rules
from blink.runs.values import UserError, choice, whole_number

log = logging.getLogger(__name__)

_OF_FLIPS = ("runs", "limit")
_OF_BOTH = ("explain", "outputs", "fresh", "wait")


class OneQuestion(NamedTuple):
    """A question whose settings were checked, the two ways to answer it, and fingerprints of what answers depend on."""

    sample: Sample
    backbone: Checkpoint
    template: Template
    sides: tuple[Side, Side]
    inputs: dict[str, Any]


def make_plan(config: DictConfig, overrides: Sequence[str]) -> OneQuestion | Flips:
    """Check all settings, and read runs and questions, but no weights.

    Raises:
        ValueError: what the user asked for cannot be explained; says why.
    """
    settings = plain(config)
    given = [override.partition("=")[0] for override in overrides]
    if settings["explain"] == "flips":
        if unread := [key for key in given if key not in (*_OF_FLIPS, *_OF_BOTH)]:
            raise UserError(
                f"explain=flips takes backbone, policies and questions from the runs; {', '.join(unread)} would change nothing"
            )
        limit, runs = whole_number("limit", settings["limit"]), settings["runs"]
        if not isinstance(runs, list):
            raise UserError(
                f"runs={runs!r}: give the folders of two finished evaluations, runs=[FOLDER,FOLDER]"
            )
        return find_flips([Path(str(run)).expanduser() for run in runs], limit)
    choice("explain", settings["explain"], ("one", "flips"))
    if unread := [key for key in given if key in _OF_FLIPS]:
        raise UserError(f"{', '.join(unread)}: only explain=flips reads that")
    return _one_question(config, settings, overrides)


def _one_question(config: DictConfig, settings: dict[str, Any], overrides: Sequence[str]) -> OneQuestion:
    method = settings["method"]
    if not method["scans"]:
        raise UserError(
            "method=vanilla: it is what the answer is held against; choose blink, interp or encode"
        )
    for key in ("image", "question"):
        if not isinstance(settings[key], str):
            raise UserError(f"{key}={settings[key]!r}: give image=FILE and question='...'")
    longest = whole_number("max_new_tokens", settings["max_new_tokens"])
    exif = choice("exif", settings["exif"], ORIENTATIONS)
    rules = Rules(Reading(upright=exif == "apply", scaled=True))
    image = Path(settings["image"]).expanduser()
    [sample] = one_case(image, settings["question"], settings["box"], rules)
    checked = check_pictures([sample], rules)  # says how one of many bits or frames is read
    asked = asked_of(config, settings, overrides)
    policy = asked.policy
    assert policy is not None, "only method=vanilla has none"
    check_taken([sample], checked.sizes, asked.checkpoint, asked.template, {"max_new_tokens": longest})
    if policy.selector == "box" and settings["box"] is None:
        raise UserError(
            "selector=box goes by the box of what is asked about: give box=[left,top,right,bottom]"
        )
    views, size = asked.checkpoint.views(), sample.load_image().size
    check_patches(policy.patches, views.grid(size), f"image={settings['image']}: ")
    _check_seen(sample.details["box"], views.window(size), policy)
    log.info("%s", asked.line)
    name = {"blink": "with Blink"}.get(method["name"], f"with Blink-{method['name']}")
    sides = Side("without Blink", Run(), longest), Side(name, Run(policy, asked.token_sr), longest)
    inputs = {"picture": short_digest(sample.load_image().tobytes()), **asked.inputs}
    return OneQuestion(sample, asked.checkpoint, asked.template, sides, inputs)


def _check_seen(box: Sequence[float] | None, window: Window, policy: Policy) -> None:
    """Warn of a box that lies outside what the backbone sees.

    Raises:
        ValueError: the policy goes by it.
    """
    if box is None or seen_box(box, window) is not None:
        return
    outside = f"box={list(box)} lies outside what the backbone sees of the picture, which is {list(window)} (left, top, right, bottom)"
    if policy.selector == "box":
        raise UserError(f"{outside}: selector=box would expand nothing; take selector=saliency")
    log.warning("%s: no region counts as the right one", outside)
