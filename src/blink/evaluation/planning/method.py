"""How a backbone is to answer: its policy, from a config and the presets, and the modules; whether they fit each other.

Of the backbone only the config is read, of TokenSR modules the config and the headers of their files: no weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig

from blink.evaluation.planning.presets import LAYER_STUDIES, OTHER, resolve
from blink.evaluation.planning.settings import POLICY_KEYS, SCAN_KEYS
from blink.inference.policy import Policy, check_layers, parse_layers
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.fingerprint import same_checkpoint
from blink.model.token_sr.files import check_token_sr, token_sr_config
from blink.model.token_sr.source import SHIPPED, find_token_sr
from blink.runs.config.settings import plain
from blink.runs.inputs.preset_file import PresetFile, preset_sources
from blink.runs.values import UserError


class Method(NamedTuple):
    """A method whose settings were checked.

    Attributes:
        policy: None for the backbone as it is.
        sources: setting of the policy -> where its value comes from; None without a policy.
        token_sr: folder or hub id of the modules; None for Blink-interp and the backbone as it is.
        zooms: whether the policy decides about a second pass (`answering/zoom.py`), and not inside one.
        warnings: what a reader of the answers should know.
    """

    policy: Policy | None
    sources: dict[str, str] | None
    token_sr: str | None
    zooms: bool
    warnings: list[str]


def method_of(
    config: DictConfig,
    overrides: Sequence[str],
    backbone: Backbone,
    *,
    benchmark: str,
    preset: PresetFile | None,
    prefix: str,
) -> Method:
    """The method of a config, checked against its backbone: layers, regions and modules show from configs and file headers.

    Args:
        benchmark: whose presets fill in what the config leaves open.
        preset: file whose values the config has taken.
        prefix: the prompt before the picture.

    Raises:
        ValueError: a value is out of range, the preset layers are those of a deeper or shallower backbone, modules are missing
            or do not fit; says what to do.
    """
    given = plain(config)
    method, path = given["method"], given["model"]["path"]
    if not method["scans"]:
        _check_unused(given, backbone)
        return Method(None, None, None, False, [])
    policy, sources = _policy(given, family_of(config), benchmark, backbone)
    sources |= preset_sources(preset, config, overrides)
    token_sr = modules_folder(given["token_sr"], path, tuple(policy.layers)) if method["trained"] else None
    check_fit(backbone, policy, token_sr)
    zooms = method.get("passes") == 2
    if zooms:
        check_zoom(policy)
    warnings = [
        *(preset.warnings(path) if preset else []),
        *(training_differs(token_sr, path, prefix) if token_sr else []),
    ]
    return Method(policy, sources, token_sr, zooms, warnings)


def family_of(config: DictConfig) -> str:
    """The backbone's family in the preset tables. "tiny" is the config's default and says nothing about another backbone."""
    model = config.model
    return OTHER if model.family == "tiny" and model.path != "tiny" else str(model.family)


def _policy(
    given: Mapping[str, Any], family: str, benchmark: str, backbone: Backbone
) -> tuple[Policy, dict[str, str]]:
    """The policy that settings and presets make, and where its layers and thresholds come from."""
    layers = backbone.num_layers
    if given["layer"] is None and family in LAYER_STUDIES:
        expected = LAYER_STUDIES[family].num_layers
        if layers != expected:
            raise UserError(
                f"{backbone.name} has {layers} decoder layers, and the preset ones of model.family={family} are those of a "
                f"backbone with {expected}; say which to scan, such as layer={layers // 2}"
            )
    others = _others(given)
    scan = resolve(family, benchmark, num_layers=layers, **{key: given[key] for key in SCAN_KEYS})
    return Policy(scan.layers, scan.tau_exp, scan.tau_drop, **others), scan.sources


def _check_unused(given: Mapping[str, Any], backbone: Backbone) -> None:
    """Check the policy's keys although the method uses none: a mistake should not wait for a method that does.

    Raises:
        ValueError: a value is out of range, or the backbone has no such layer.
    """
    thresholds = {key: given[key] for key in ("tau_exp", "tau_drop") if given[key] is not None}
    layers = parse_layers(0 if given["layer"] is None else given["layer"])
    policy = Policy(layers, **thresholds, **_others(given))
    check_layers(policy.layers, backbone.num_layers)


def _others(given: Mapping[str, Any]) -> dict[str, Any]:
    """The policy's fields beside layers and thresholds; a config of an earlier version may lack some, which are defaults."""
    others = {key: given[key] for key in POLICY_KEYS if key in given and key not in SCAN_KEYS}
    return others | {"source": given["method"].get("source", "coarse")}


def check_fit(backbone: Backbone, policy: Policy, token_sr: str | None) -> None:
    """Check a policy and modules against a backbone, with or without weights.

    Raises:
        ValueError: something does not fit; says what, and what to do.
    """
    Run(policy).resolve(backbone)
    if token_sr is not None:
        check_token_sr(token_sr, channels=backbone.hidden_size, layers=policy.layers)


def check_zoom(policy: Policy) -> None:
    """Raise ValueError for settings that a second pass has no meaning for."""
    if policy.selector == "random" or policy.schedule != "threshold":
        raise UserError(
            f"method=zoom with selector={policy.selector} and schedule={policy.schedule}: the first pass decides by its "
            "ratio, and the second shows the hottest region or the box's; take selector=saliency or box, "
            "schedule=threshold"
        )


def modules_folder(
    token_sr: str | None,
    path: str,
    layers: Sequence[int],
    *,
    needed_by: str = "method=blink",
    otherwise: str = ", or evaluate without training by method=interp",
) -> str:
    """Return the folder or hub id of the TokenSR modules: as given, or of those that ship with the tiny backbone.

    Args:
        needed_by: what of the command needs them, and how to do without, in the keys that it takes, for the message.

    Raises:
        ValueError: none are given for another backbone.
    """
    if token_sr is not None:
        return str(token_sr)
    if path == SHIPPED:
        return SHIPPED
    train = f"python -m blink.train model.path={path} layer=[{','.join(map(str, layers))}]"
    raise UserError(
        f"{needed_by} needs TokenSR modules for {path}, and none ship with it: train them with `{train}` and pass "
        f"token_sr=FOLDER{otherwise}"
    )


def training_differs(token_sr: str, path: str, prefix: str) -> list[str]:
    """Return warnings where TokenSR modules were trained on another backbone or prompt than this run's, by their own record.

    Args:
        token_sr: folder or hub id of the modules.
        path: the backbone's.
        prefix: the prompt before the picture.
    """
    recorded = token_sr_config(token_sr)
    found = []
    backbone = recorded.backbone
    if not same_checkpoint(path, backbone, recorded.backbone_weights):
        found.append(
            f"the modules in {token_sr} were trained on the backbone {backbone}, and this one is {path}: unless "
            "these are the same weights, scores of Blink mean little"
        )
    trained_behind = recorded.prompt_prefix
    if trained_behind is not None and trained_behind != prefix:
        found.append(
            f"the modules in {token_sr} were trained behind the prompt prefix {trained_behind!r}, and this run's is "
            f"{prefix!r}: visual tokens depend on it; choose the model.template of the training"
        )
    return found


def fingerprints(backbone: Backbone, token_sr: str | None) -> dict[str, str | None]:
    """Fingerprints of backbone and TokenSR modules, by which a run notices that their files have changed."""
    return {
        "revision": backbone.revision,
        "backbone": backbone.fingerprint.files,
        "token_sr": find_token_sr(token_sr).digest if token_sr else None,
    }
