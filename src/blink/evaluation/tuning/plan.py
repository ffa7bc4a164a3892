"""What a search is to do: its config, checked, as flat values; the questions of a validation split, halved.

Questions of a test split are never read, unless a benchmark has no other and the user names it. Of the backbone only
the config is read: no weights.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from blink.bench import BENCHMARKS, JUDGED, Benchmark, Sample
from blink.evaluation.answering.rows import pictures
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.fit import check_questions
from blink.evaluation.planning.method import fingerprints, modules_folder, training_differs
from blink.evaluation.planning.questions import questions_of, samples_digest
from blink.evaluation.planning.settings import check_values, process_count, reject_training_keys
from blink.evaluation.tuning.space import Space, check_methods, extra, known_methods
from blink.inference.policy import POSITIONS, Policy, check_layers, parse_layers
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.prompts import Template
from blink.model.token_sr import check_patches
from blink.model.token_sr.files import check_token_sr, token_sr_config
from blink.model.token_sr.source import SHIPPED
from blink.runs.config.groups import CONF_DIR
from blink.runs.config.settings import plain
from blink.runs.values import UserError, choice, number, optional, text, whole_number, whole_numbers

VALIDATION, TEST = "validation", "test"

SEARCH, HELD_OUT = "search", "held_out"
"""The halves of the questions."""

_MOST_TRIALS = 1_000_000


class Asked(NamedTuple):
    """A benchmark's questions: those that are searched on, and those that are held out until the choice.

    Attributes:
        inputs: fingerprints of them, as for `blink.evaluation.answering.rows.resume`.
    """

    benchmark: Benchmark
    search: list[Sample]
    held_out: list[Sample]
    data: str
    inputs: dict[str, Any]

    def half(self, name: str) -> list[Sample]:
        """The questions of a half, `SEARCH` or `HELD_OUT`."""
        return {SEARCH: self.search, HELD_OUT: self.held_out}[name]


class Plan(NamedTuple):
    """A search whose settings were checked.

    Attributes:
        backbone: what to load.
        token_sr: folder or hub id of TokenSR modules; None where no setting uses any.
        memory_gb, pictures, processes, workers: as in an evaluation's plan.
        inputs: fingerprints of backbone and modules.
        warnings: what a reader of the report should know.
    """

    backbone: Checkpoint
    outline: Backbone
    template: Template
    asked: list[Asked]
    space: Space
    token_sr: str | None
    trials: int
    batch: int
    finalists: int
    seed: int
    memory_gb: float
    pictures: int | None
    processes: int
    workers: int | None
    inputs: dict[str, Any]
    warnings: list[str]


def make_plan(config: DictConfig, overrides: Sequence[str]) -> Plan:
    """Check all settings and read the questions, but no weights of the backbone.

    Raises:
        ValueError: what the user asked for cannot be done; says why.
    """
    reject_training_keys(overrides)
    if find_spec("optuna") is None:
        raise UserError(
            "blink.tune searches with optuna, which is not installed: pip install 'blink-mllm[tune]'"
        )
    settings = plain(config)
    composed = [_of_bench(config, bench) for bench in benches_of(config, overrides)]
    if judged := [each.bench.name for each in composed if each.bench.name in JUDGED]:
        raise UserError(
            f"bench={judged[0]}: its answers need a judge; a search needs answers that are right or wrong"
        )
    counts = {
        key: whole_number(key, settings[key], most=_MOST_TRIALS) for key in ("trials", "batch", "finalists")
    }
    seed = whole_number("seed", settings["seed"], least=None)
    for each in composed:
        check_values(plain(each))
    model = settings["model"]
    checkpoint = Checkpoint.of(model)
    backbone, template = checkpoint.outline(), checkpoint.template(model["template"])
    space, token_sr = _space(settings, backbone)
    limit, engine = optional(whole_number, "limit", settings["limit"]), settings["engine"]
    warnings = training_differs(token_sr, model["path"], template.prefix) if token_sr else []
    asked = []
    for each in composed:
        found, warned = _questions(each, settings, limit, checkpoint, template)
        asked.append(found)
        warnings += warned
    return Plan(
        backbone=checkpoint,
        outline=backbone,
        template=template,
        asked=asked,
        space=space,
        token_sr=token_sr,
        **counts,
        seed=seed,
        memory_gb=number("engine.memory_gb", engine["memory_gb"], above=0),
        pictures=engine.get("pictures"),  # configs of an earlier version have none
        processes=process_count(settings.get("devices", 1), model),
        workers=engine.get("workers"),
        inputs=fingerprints(backbone, token_sr),
        warnings=warnings,
    )


def benches_of(config: DictConfig, overrides: Sequence[str]) -> list[DictConfig]:
    """The configs of the benchmarks that `bench=` names; of several, `bench.KEY=` goes to those that have such a key.

    Hydra puts the configs of several options of a group on top of each other; which they were, the override says.
    """
    named: list[str] = []
    keys: list[str] = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        if override.key_or_group == "bench":
            named = list(dict.fromkeys(map(str, value))) if isinstance(value, list) else [str(value)]
        elif override.key_or_group.startswith("bench."):
            keys.append(override.key_or_group.removeprefix("bench."))
    if len(named) < 2:
        return [config.bench]
    found = []
    for name in named:
        bench = OmegaConf.load(CONF_DIR / "bench" / f"{name}.yaml")
        assert isinstance(bench, DictConfig)
        bench.update({key: config.bench[key] for key in keys if key in bench})
        found.append(bench)
    return found


def _of_bench(config: DictConfig, bench: DictConfig) -> DictConfig:
    """The config of an evaluation of one of the benchmarks, as far as questions are read by it."""
    found = config.copy()
    OmegaConf.set_struct(found, False)
    OmegaConf.set_readonly(found, False)
    found.bench = bench
    found.engine.reuse = "full"
    found.scenes.split = VALIDATION
    return found


def _questions(
    config: DictConfig,
    settings: Mapping[str, Any],
    limit: int | None,
    checkpoint: Checkpoint,
    template: Template,
) -> tuple[Asked, list[str]]:
    """Read a benchmark's questions and halve them, and warn of a test split."""
    data, split = settings["data"], optional(text, "split", settings["split"])
    name, warnings = config.bench.name, list[str]()
    if data["root"] is None and data["source"] == "scenes":
        if split not in (None, VALIDATION):
            raise UserError(
                f"split={split}: settings are chosen on the {VALIDATION} split of the scenes; the others are for training "
                "and for testing what was chosen"
            )
    else:
        read, warnings = check_split(name, split, data["root"])
        if "split" in config.bench:
            config.bench.split = read
    questions = questions_of(config, limit)
    check_questions(questions, checkpoint, template)
    search, held_out = halves(questions.samples)
    if not held_out:
        raise UserError(
            f"{name}: its questions are about one picture; two at least are needed, one for each half"
        )
    inputs = {
        "version": questions.benchmark.version,
        "pictures": questions.pictures,
        "all_samples": samples_digest(questions.samples),
    }
    return Asked(questions.benchmark, search, held_out, questions.data, inputs), warnings


def check_split(name: str, split: str | None, root: str | None) -> tuple[str, list[str]]:
    """Refuse the split that a benchmark's results are reported on, unless it has no other and the user names it.

    Questions of the user's own are what the user says they are.

    Args:
        split: as the user names it, if at all.
        root: folder of the benchmark, if it is not read from the hub.

    Returns:
        The split to read, and a warning where results are reported on it.

    Raises:
        ValueError: it is refused; says what to do.
    """
    bench = BENCHMARKS[name]
    own = bench.hub_split
    if name == "questions":
        if split is None or any(word.startswith(TEST) for word in re.split("[^a-z]+", split.lower())):
            raise UserError(
                f"bench=questions: say which split the questions are by split=NAME, such as split={VALIDATION}; settings "
                "that were chosen on a test split tell nothing when they are tested on it"
            )
        return split, []
    if bench.validation is not None:
        if split not in (None, bench.validation):
            raise UserError(
                f"split={split}: settings for bench={name} are chosen on its {bench.validation} split, as results are "
                f"reported on {own}"
            )
        return bench.validation, []
    if split != own:
        asked = "" if split is None else f"split={split}: "
        raise UserError(
            f"{asked}bench={name} has the split {own!r} alone, which results are reported on; choose settings on data=scenes "
            f"or on questions of your own (bench=questions), or say split={own} to take it all the same, which the "
            "report will say"
        )
    where = f" of {root}" if root else ""
    return own, [
        f"{name}: settings were chosen on its {own} split{where}, which results are reported on: scores on it with this preset "
        "are too good"
    ]


def halves(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Questions about every other picture, and those about the others: both hold what comes early and late in a file."""
    groups = [group for _, group in pictures(samples)]
    first = [sample for group in groups[::2] for sample in group]
    return first, [sample for group in groups[1::2] for sample in group]


def _space(settings: Mapping[str, Any], backbone: Backbone) -> tuple[Space, str | None]:
    """The settings that may be tried, and where the TokenSR modules are that some of them need."""
    given, path = settings["space"], settings["model"]["path"]
    layers = tuple(range(backbone.num_layers)) if given["layers"] is None else parse_layers(given["layers"])
    check_layers(layers, backbone.num_layers)
    has_modules = settings["token_sr"] is not None or path == SHIPPED
    wanted = given["method"]
    if wanted is None:
        methods = tuple(method for method in known_methods() if method != "blink" or has_modules)
    else:
        methods = check_methods(wanted if isinstance(wanted, list) else [text("space.method", wanted)])
    if not methods:
        raise UserError("space.method=[]: name one method or several")
    token_sr: str | None = None
    modules: tuple[int, ...] = ()
    if "blink" in methods:
        token_sr = modules_folder(
            settings["token_sr"],
            path,
            layers,
            needed_by="space.method=blink",
            otherwise=", or leave blink out of space.method",
        )
        modules = tuple(layer for layer in token_sr_config(token_sr).layers if layer in layers)
        if not modules:
            raise UserError(
                f"token_sr={token_sr} has no module of the layers that may be scanned (space.layers)"
            )
        check_token_sr(token_sr, channels=backbone.hidden_size, layers=modules)
    elif settings["token_sr"] is not None:
        raise UserError(f"token_sr={settings['token_sr']}: no method of space.method uses modules")
    patches = tuple(sorted(set(whole_numbers("space.patches", given["patches"], example="[2,3]"))))
    positions = given["positions"] if isinstance(given["positions"], list) else [given["positions"]]
    for name in positions:
        choice("space.positions", name, POSITIONS)
    if not patches or not positions:
        raise UserError("space.patches and space.positions: name one value at least of each")
    for each in patches:
        whole_number("space.patches", each, 2)
        if backbone.grid is not None:  # else it is each picture's
            check_patches(each, backbone.grid, "space.")
    for method in methods:
        for each in patches:
            Run(Policy(layers, patches=each, **extra(method))).resolve(backbone)
    return (
        Space(
            methods=methods,
            layers=layers,
            modules=modules,
            longest=whole_number("space.longest", given["longest"]),
            patches=patches,
            positions=tuple(each for each in POSITIONS if each in positions),
        ),
        token_sr,
    )
