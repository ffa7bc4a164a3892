"""All figures by name, and what `blink.analyze` is to draw: its config, checked, and the questions or runs behind it.

Of the backbone only the config is read before `Plan.draw` is called.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from blink.analysis.cases import choose_cases, folder_cases, one_case, spread_out
from blink.analysis.figures.attention_maps import AttentionMapsFigure
from blink.analysis.figures.attention_ratio import AttentionRatioFigure
from blink.analysis.figures.base import BackboneFigure, Subject, ids_setting, listed
from blink.analysis.figures.of_runs import ceilings, copy_radar, layer_range, thresholds
from blink.analysis.figures.of_runs.points import Point, read_points
from blink.analysis.figures.redistribution_drawings import RedistributionFigure
from blink.analysis.figures.tokensr import TokenSRFigure
from blink.analysis.kept import Kept
from blink.bench import Sample
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.fit import check_questions, check_taken
from blink.evaluation.planning.method import family_of, fingerprints, modules_folder, training_differs
from blink.evaluation.planning.questions import check_pictures, questions_of, samples_digest
from blink.evaluation.planning.settings import check_values
from blink.evaluation.result import SCORES
from blink.inference.policy import POSITIONS
from blink.model.backbone import Backbone
from blink.model.prompts import Template
from blink.model.token_sr import check_patches
from blink.model.token_sr.files import check_token_sr, load_token_sr, token_sr_config
from blink.model.views import ViewMaker
from blink.runs.config.settings import plain
from blink.runs.files import short_digest
from blink.runs.inputs.pictures import Rules
from blink.runs.style import Drawn, look
from blink.runs.values import UserError, choice, optional, whole_number

log = logging.getLogger(__name__)

BACKBONE_FIGURES: dict[str, type[BackboneFigure]] = {
    "attention_maps": AttentionMapsFigure,
    "attention_ratio": AttentionRatioFigure,
    "redistribution": RedistributionFigure,
    "tokensr": TokenSRFigure,
}
"""Figures that look into a backbone."""

RUN_FIGURES: dict[str, Callable[[Sequence[Point], Mapping[str, Any], str], Drawn]] = {
    "ceilings": ceilings.figure_of_runs,
    "copy_radar": copy_radar.figure_of_runs,
    "layer_range": layer_range.figure_of_runs,
    "thresholds": thresholds.figure_of_runs,
}
"""Figures of finished runs; they take the runs, the settings of their group in conf/figure/, and the backbone's family."""


class Plan(NamedTuple):
    """A figure whose settings were checked.

    Attributes:
        inputs: fingerprints of all that it depends on beyond the config.
        draw: measures and draws it; keeps what is measured in a folder until all is.
    """

    inputs: dict[str, Any]
    draw: Callable[[Path], Drawn]


def make_plan(config: DictConfig) -> Plan:
    """Check all settings and read questions or finished runs, but no weights.

    Raises:
        ValueError: what the user asked for cannot be drawn; says why.
        MissingMandatoryValue: a setting that must be given is not.
    """
    settings = plain(config, complete=True)
    _check_values(settings)
    plan = _plan_of_runs if settings["figure"]["name"] in RUN_FIGURES else _plan_of_backbone
    return plan(config, settings)


def _plan_of_runs(config: DictConfig, settings: Mapping[str, Any]) -> Plan:
    """Read finished runs and draw them, which takes no time and finds out whether they belong together."""
    figure = settings["figure"]
    folders = [Path(str(folder)).expanduser() for folder in listed(figure["runs"])]
    points = read_points(folders, settings["bench"]["name"])
    with look():
        drawn = RUN_FIGURES[figure["name"]](points, figure, family_of(config))
    files = {
        str(point.run.folder): short_digest((point.run.folder / SCORES).read_bytes()) for point in points
    }
    return Plan({"runs": files}, lambda _: drawn)


def _check_values(settings: Mapping[str, Any]) -> None:
    """Check the settings of all figures, those that the chosen one does not read among them: a mistake is told at once."""
    check_values(settings)
    for key, least in (("samples", 1), ("batch_size", 1), ("patches", 2)):
        whole_number(key, settings[key], least)
    whole_number("seed", settings["seed"], least=None)
    choice("positions", settings["positions"], POSITIONS)


def _plan_of_backbone(config: DictConfig, settings: Mapping[str, Any]) -> Plan:
    model, figure = settings["model"], settings["figure"]
    checkpoint = Checkpoint.of(model)
    backbone, template = checkpoint.outline(), checkpoint.template(model["template"])
    if backbone.grid is not None:  # else it is each picture's
        check_patches(settings["patches"], backbone.grid)
    kind = BACKBONE_FIGURES[figure["name"]]
    token_sr = None
    if kind.needs_modules(figure):
        token_sr = modules_folder(
            settings["token_sr"], model["path"], (0,), needed_by=f"figure={figure['name']}", otherwise=""
        )
    modules = token_sr_config(token_sr) if token_sr else None
    drawing = kind.from_settings(figure, family_of(config), backbone.num_layers, modules)
    layers = drawing.module_layers(modules.layers if modules else ())
    if token_sr:
        check_token_sr(token_sr, channels=backbone.hidden_size, layers=layers)
        for warning in training_differs(token_sr, model["path"], template.prefix):
            log.warning("%s", warning)
    samples, data, pictures = _samples(config, settings, kind, checkpoint, template)
    choose_cases(samples, 1, ids_setting(figure.get("ids")))  # raises where an id is not among them
    inputs = {
        "samples": samples_digest(samples),
        "pictures": pictures,
        "boxes": short_digest(json.dumps([sample.details.get("box") for sample in samples])),
        **fingerprints(backbone, token_sr),
    }

    def subject(parts: Path) -> Subject:
        loaded = checkpoint.load()
        wide = _wide_enough(samples, loaded, settings["patches"]) if kind.reads_questions else samples
        return Subject(
            backbone=loaded,
            template=template,
            samples=wide,
            patches=settings["patches"],
            positions=settings["positions"],
            modules=load_token_sr(token_sr, layers=layers) if token_sr else {},
            batch_size=settings["batch_size"],
            about=f"{model['path']}, {data}, {len(wide)} question{'s' * (len(wide) > 1)}",
            kept=Kept(parts, inputs),
        )

    return Plan(inputs, partial(_draw, drawing, subject))


def _wide_enough(samples: list[Sample], backbone: Backbone, patches: int) -> list[Sample]:
    """Leave out questions about pictures that cannot be split into p x p regions, and say how many.

    Raises:
        ValueError: none is left.
    """
    if backbone.grid is not None:
        return samples
    views = ViewMaker(backbone.processor)
    sizes = {sample.image: sample.load_image().size for sample in samples}
    wide = [sample for sample in samples if min(views.grid(sizes[sample.image])) >= patches]
    left_out = f"{len(samples) - len(wide)} of {len(samples)} questions: their pictures are too narrow for"
    if not wide:
        raise UserError(f"{left_out} {patches} x {patches} regions, and none is left")
    if len(wide) < len(samples):
        log.warning("left out %s %d x %d regions", left_out, patches, patches)
    return wide


def _draw(figure: BackboneFigure, subject: Callable[[Path], Subject], parts: Path) -> Drawn:
    """Load the backbone, measure and draw."""
    loaded = subject(parts)
    started = time.perf_counter()
    with look():
        drawn = figure.draw(loaded)
    log.info("%d questions looked at in %.0f s", len(loaded.samples), time.perf_counter() - started)
    return drawn


def _samples(
    config: DictConfig,
    settings: Mapping[str, Any],
    kind: type[BackboneFigure],
    checkpoint: Checkpoint,
    template: Template,
) -> tuple[list[Sample], str, str | None]:
    """The questions to run, where they come from in words, and a hash of pictures that are not drawn here."""
    image, questions, count, seed = (settings[key] for key in ("image", "questions", "samples", "seed"))
    if image is not None and questions is not None:
        raise UserError("image= and questions= are both given; a figure looks at one or the other")
    if image is None and (settings["question"] is not None or settings["box"] is not None):
        raise UserError("question= and box= go with image=, which is not given")
    limit = optional(whole_number, "limit", settings["limit"])
    if image is None and questions is None:
        asked = questions_of(config, limit)
        chosen = spread_out(asked.samples, count, seed)
        check_questions(asked._replace(samples=chosen), checkpoint, template)
        return chosen, f"{asked.benchmark.name} ({asked.data})", asked.pictures
    unread = [f"data.{key}" for key in ("root", "id") if settings["data"].get(key) is not None]
    if unread:
        raise UserError(
            f"{unread[0]} is where a benchmark lies, which is not read beside image= and questions="
        )
    rules = Rules.of(settings["data"], scaled=True)
    if image is not None:
        question = settings["question"]
        if question is None and not kind.reads_questions:
            question = "none"
        if not isinstance(question, str):
            raise UserError(f"question={question!r}: give the question to ask about image={image}")
        path = Path(str(image)).expanduser()
        chosen = one_case(path, question, settings["box"], rules)
    else:
        folder = None if settings["pictures"] is None else Path(str(settings["pictures"])).expanduser()
        path = Path(str(questions)).expanduser()
        chosen = spread_out(folder_cases(path, folder, rules)[:limit], count, seed)
    checked = check_pictures(chosen, rules)
    check_taken(chosen, checked.sizes, checkpoint, template)
    return chosen, path.name, checked.digest
