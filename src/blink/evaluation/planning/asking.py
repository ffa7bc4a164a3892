"""A backbone that is asked questions of no benchmark, and the policy under which it answers: `blink.explain`, servers, harnesses.

Of the backbone only the config is read.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig

from blink.bench import BENCHMARKS
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.method import fingerprints, method_of
from blink.evaluation.planning.settings import check_values
from blink.inference.policy import Policy
from blink.model.backbone import Backbone
from blink.model.prompts import Template
from blink.runs.inputs.preset_file import RECOMMENDED, preset_of, with_preset
from blink.runs.values import UserError, path

log = logging.getLogger(__name__)

_BESIDE_A_FILE = "mmvet"


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


def asked_of(
    config: DictConfig, settings: dict[str, Any], overrides: Sequence[str], *, boxless: str | None = None
) -> Asked:
    """Check backbone, policy and modules against each other; warns where they were not made for each other.

    Args:
        config: with the values of a preset file, if it names one (`with_preset_file`).
        settings: the same as plain containers.
        boxless: where questions come without boxes, who says so, as in "requests have not"; a policy that goes by boxes is
            refused then.

    Raises:
        ValueError: something does not fit; says what.
    """
    check_values(settings)
    model, method = settings["model"], settings["method"]
    if method.get("passes") == 2:
        raise UserError(
            f"method={method['name']}: two passes are for blink.eval; choose blink, interp or encode"
        )
    checkpoint = Checkpoint.of(model)
    backbone, template = checkpoint.outline(), checkpoint.template(model["template"])
    if not method["scans"]:
        inputs = fingerprints(backbone, None)
        return Asked(checkpoint, backbone, template, None, None, inputs, "without Blink")
    file = None if settings["preset"] in BENCHMARKS else preset_of(config)
    # a file gives all that the benchmark's presets would
    benchmark = settings["preset"] if file is None else _BESIDE_A_FILE
    found = method_of(config, overrides, backbone, benchmark=benchmark, preset=file, prefix=template.prefix)
    for warning in found.warnings:
        log.warning("%s", warning)
    assert found.policy is not None, "a method that scans has a policy"
    if boxless and found.policy.selector == "box":
        raise UserError(f"selector=box goes by boxes, which {boxless}; choose saliency or random")
    line = _in_words(found.policy, found.sources or {})
    preset = {} if file is None else {"preset": file.digest}
    inputs = {**preset, **fingerprints(backbone, found.token_sr)}
    return Asked(checkpoint, backbone, template, found.policy, found.token_sr, inputs, line)


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
