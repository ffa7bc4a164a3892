"""What `blink.explain` is to explain: its config, checked, and the question or the finished runs.

Of the backbone only the config is read.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from blink.analysis.cases import one_case
from blink.analysis.explain.answers import Side
from blink.analysis.explain.flips import Flips, find_flips
from blink.bench import BENCHMARKS, Sample
from blink.evaluation.checks import (
    check_fit,
    check_taken,
    check_values,
    fingerprints,
    modules_folder,
    outlined,
    processor_of,
    prompt_template,
    training_differs,
)
from blink.evaluation.plan import Checkpoint, policy_of
from blink.evaluation.questions import check_pictures
from blink.inference.boxes import Window, seen_box
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.processors import picture_options
from blink.model.prompts import Template
from blink.model.token_sr import check_patches
from blink.model.views import ViewMaker
from blink.runs.command import plain
from blink.runs.files import short_digest
from blink.runs.inputs.pictures import ORIENTATIONS, Reading, Rules
from blink.runs.inputs.preset_file import RECOMMENDED, preset_of, preset_sources, with_preset
from blink.runs.values import UserError, choice, path, whole_number

log = logging.getLogger(__name__)

_OF_FLIPS = ("runs", "limit")
_BESIDE_A_FILE = "mmvet"
_OF_BOTH = ("explain", "outputs", "fresh", "wait")


class OneQuestion(NamedTuple):
    """A question whose settings were checked, the two ways to answer it, and fingerprints of what answers depend on."""

    sample: Sample
    backbone: Checkpoint
    template: Template
    sides: tuple[Side, Side]
    inputs: dict[str, Any]


def with_preset_file(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return a config with the values of a preset file where `preset` names one, and not a benchmark's presets.

    Raises:
        ValueError: it names neither, or the file is none; says why.
    """
    named = config.preset
    if named in BENCHMARKS or ("explain" in config and config.explain != "one"):
        return config
    if not (isinstance(named, str) and (named == RECOMMENDED or path("preset", named).is_file())):
        raise UserError(
            f"preset={named!r}: expected one of {', '.join(BENCHMARKS)}, {RECOMMENDED}, or a preset file"
        )
    return with_preset(config, overrides)


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


def _in_words(policy: Policy, sources: Mapping[str, str]) -> str:
    """Where a policy scans and when it acts, and why: reasons that all have in common stand once, at the end."""
    layers = tuple(policy.layers)
    parts = {
        "layers": f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}",
        "tau_exp": f"expand above {policy.tau_exp:g}",
        "tau_drop": f"drop below {policy.tau_drop:g}",
    }
    reasons = {sources[name] for name in parts}
    if len(reasons) == 1:
        return f"{', '.join(parts.values())} ({reasons.pop()})"
    return ", ".join(f"{words} ({sources[name]})" for name, words in parts.items())


class Asked(NamedTuple):
    """A backbone that is asked questions of no benchmark, and the policy under which it answers.

    Attributes:
        backbone: its outline.
        policy: None for `method=vanilla`, which scans nothing.
        token_sr: folder or hub id of the modules, None for a method without.
        inputs: fingerprints of what answers depend on.
        line: where to scan and when to act, and why, for the screen.
    """

    checkpoint: Checkpoint
    backbone: Backbone
    template: Template
    policy: Policy | None
    token_sr: str | None
    inputs: dict[str, Any]
    line: str


def asked_of(config: DictConfig, settings: dict[str, Any], overrides: Sequence[str]) -> Asked:
    """Check backbone, policy and modules against each other; warns where they were not made for each other.

    Args:
        config: with the values of a preset file, if it names one (`with_preset_file`).
        settings: the same as plain containers.

    Raises:
        ValueError: something does not fit; says what.
    """
    check_values(settings)
    model, method = settings["model"], settings["method"]
    if method.get("passes") == 2:
        raise UserError(
            f"method={method['name']}: two passes are for blink.eval; choose blink, interp or encode"
        )
    backbone = outlined(model["path"], revision=model["revision"])
    template = prompt_template(
        model["path"], model["template"], revision=model["revision"], **picture_options(model)
    )
    checkpoint = Checkpoint.of(model)
    if not method["scans"]:
        return Asked(
            checkpoint, backbone, template, None, None, fingerprints(backbone, None), "without Blink"
        )
    file = None if settings["preset"] in BENCHMARKS else preset_of(config)
    # a file gives all that the benchmark's presets would
    policy, sources = policy_of(config, settings["preset"] if file is None else _BESIDE_A_FILE, backbone)
    sources |= preset_sources(file, config, overrides)
    for warning in [] if file is None else file.warnings(model["path"]):
        log.warning("%s", warning)
    layers = tuple(policy.layers)
    token_sr = modules_folder(settings["token_sr"], model["path"], layers) if method["trained"] else None
    check_fit(backbone, policy, token_sr)
    if token_sr is not None:
        for warning in training_differs(token_sr, model["path"], template.prefix):
            log.warning("%s", warning)
    line = _in_words(policy, sources)
    preset = {} if file is None else {"preset": file.digest}
    inputs = {**preset, **fingerprints(backbone, token_sr)}
    return Asked(checkpoint, backbone, template, policy, token_sr, inputs, line)


def _one_question(config: DictConfig, settings: dict[str, Any], overrides: Sequence[str]) -> OneQuestion:
    model, method = settings["model"], settings["method"]
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
    check_taken(model, [sample], checked.sizes, {"max_new_tokens": longest})
    if policy.selector == "box" and settings["box"] is None:
        raise UserError(
            "selector=box goes by the box of what is asked about: give box=[left,top,right,bottom]"
        )
    processor = processor_of(model["path"], revision=model["revision"], **picture_options(model))
    views, size = ViewMaker(processor, grid=asked.backbone.grid), sample.load_image().size
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
