"""`python -m blink.analyze figure=NAME`: the paper's figures.

Thin: it reads the config, has all of it checked before any weight is read, and hands flat arguments on. A figure whose
inputs did not change since it was drawn is returned as it is. Heavy imports wait until they are needed, so that
`--help` is quick.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from blink.runs.command import hydra_command, one_line_errors, reject_added_keys
from blink.runs.files import write_json
from blink.runs.folder import INPUTS, open_run
from blink.runs.values import paths, whole_number

if TYPE_CHECKING:
    from blink.analysis.figures.base import BackboneFigure
    from blink.bench import Sample
    from blink.runs.style import Drawn

log = logging.getLogger("blink.analyze")  # not __main__, which `python -m` calls it


class Plan(NamedTuple):
    """A figure whose settings were checked.

    Attributes:
        inputs: what it follows from, by which a change is noticed.
        figure: of the kind that looks into a backbone, else None.
        samples: for it to look at.
        about: backbone and data in words.
        token_sr: folder or hub id of the modules that it needs, else None.
        module_layers: of these layers.
        drawn: the figure itself where it is of finished runs, which takes no time.
    """

    inputs: dict[str, Any]
    figure: BackboneFigure | None = None
    samples: list[Sample] = []  # noqa: RUF012 (a NamedTuple's default, never changed)
    about: str = ""
    token_sr: str | None = None
    module_layers: tuple[int, ...] = ()
    drawn: Drawn | None = None


@hydra_command("analyze")
def main(config: DictConfig) -> None:
    """Draw one figure, or return it if it was drawn before from the same inputs."""
    from blink.analysis.figures.registry import RUN_FIGURES
    from blink.evaluation.checks import reject_training_keys
    from blink.runs.style import look, save

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph in a PDF
    overrides = list(HydraConfig.get().overrides.task)
    name = config.figure.name
    with one_line_errors():
        reject_added_keys(overrides)
        reject_training_keys(overrides)
        settings = _plain(config)
        plan = _plan_of_runs(settings) if name in RUN_FIGURES else _plan_of_backbone(settings)
        folder = open_run(Path(config.outputs), "analyze", overrides, settings, fresh=config.fresh)
        files = drawn_before(folder, plan.inputs)
    if files is None:
        with look():
            files = save(plan.drawn or _draw(plan, settings), name, folder)
    write_json(folder / INPUTS, {"inputs": plan.inputs, "files": files})
    for file in files:
        print(folder / file)


def drawn_before(folder: Path, inputs: Mapping[str, Any]) -> list[str] | None:
    """The files of a figure that was drawn from the same inputs; None if it has to be drawn.

    Both are kept in one file.
    """
    path = folder / INPUTS
    if not path.exists():
        return None
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["inputs"] != json.loads(json.dumps(inputs)):
        log.info("drawn before from other inputs: drawing anew")
        return None
    files: list[str] = before["files"]
    if not all((folder / file).exists() for file in files):
        return None
    log.info("drawn before: %s", folder)
    return files


def _plan_of_runs(settings: Mapping[str, Any]) -> Plan:
    """Read the finished runs of a figure, and draw it.

    Raises:
        ValueError: they are missing or do not belong together.
    """
    from blink.analysis.figures.points import read_points
    from blink.analysis.figures.registry import RUN_FIGURES
    from blink.evaluation.predict import SCORES
    from blink.runs.style import look

    points = read_points(paths("figure.runs", settings["figure"]["runs"]), settings["bench"]["name"])
    digests = {str(point.run.folder): _digest(point.run.folder / SCORES) for point in points}
    with look():
        drawn = RUN_FIGURES[settings["figure"]["name"]](points, settings["figure"], _family(settings))
    return Plan(inputs={"runs": digests}, drawn=drawn)


def _plan_of_backbone(settings: Mapping[str, Any]) -> Plan:
    """Check the settings of a figure that looks into a backbone, and read its questions.

    Raises:
        ValueError: what the user asked for cannot be drawn; says why.
    """
    from blink.analysis.cases import choose_cases
    from blink.analysis.figures.base import ids_setting
    from blink.analysis.figures.registry import BACKBONE_FIGURES
    from blink.evaluation.checks import check_values, modules_folder, outlined, training_differs
    from blink.evaluation.predict import samples_digest
    from blink.model.prompts import template_named
    from blink.model.token_sr import check_patches
    from blink.model.token_sr_files import check_token_sr, token_sr_config, token_sr_digest

    check_values(settings)
    model, figure = settings["model"], dict(settings["figure"])
    for key, least in (("samples", 1), ("batch_size", 1), ("patches", 2)):
        whole_number(key, settings[key], least)
    template = template_named(model["template"])
    backbone = outlined(model["path"], revision=model["revision"])
    check_patches(settings["patches"], backbone.grid)
    kind = BACKBONE_FIGURES[figure["name"]]
    token_sr = (
        modules_folder(settings["token_sr"], model["path"], (0,)) if kind.needs_modules(figure) else None
    )
    modules = token_sr_config(token_sr) if token_sr else None
    drawing = kind.from_settings(figure, _family(settings), backbone.num_layers, modules)
    module_layers = drawing.module_layers(modules.layers if modules else ())
    if token_sr:
        check_token_sr(token_sr, channels=backbone.hidden_size, layers=module_layers)
        for warning in training_differs(token_sr, model["path"], template.prefix):
            log.warning("%s", warning)
    samples, data = _samples(settings)
    choose_cases(samples, 1, ids_setting(figure.get("ids")))  # for its errors
    inputs = {
        "samples": samples_digest(samples),
        "boxes": _hash(json.dumps([sample.details.get("box") for sample in samples])),
        "backbone": backbone.fingerprint.files,
        "revision": backbone.revision,
        "token_sr": token_sr_digest(token_sr) if token_sr else None,
    }
    about = f"{model['path']}, {data}, {len(samples)} question{'s' * (len(samples) > 1)}"
    return Plan(inputs, drawing, samples, about, token_sr, module_layers)


def _samples(settings: Mapping[str, Any]) -> tuple[list[Sample], str]:
    """The questions to look at, and where they come from in words."""
    from blink.analysis.cases import folder_cases, one_case, spread_out
    from blink.analysis.figures.registry import BACKBONE_FIGURES
    from blink.evaluation.questions import read_questions

    image, questions = settings["image"], settings["questions"]
    if image is not None and questions is not None:
        raise ValueError("image= and questions= are both given; a figure looks at one or the other")
    if image is None and (settings["question"] is not None or settings["box"] is not None):
        raise ValueError("question= and box= go with image=, which is not given")
    if image is not None:
        question = settings["question"]
        if question is None and not BACKBONE_FIGURES[settings["figure"]["name"]].reads_questions:
            question = "none"
        if not isinstance(question, str):
            raise ValueError(f"question={question!r}: give the question to ask about image={image}")
        path = Path(str(image)).expanduser()
        return one_case(path, question, settings["box"]), path.name
    if questions is not None:
        folder = None if settings["pictures"] is None else Path(str(settings["pictures"])).expanduser()
        path = Path(str(questions)).expanduser()
        return spread_out(folder_cases(path, folder), settings["samples"], settings["seed"]), path.name
    bench, data = {"prompt": settings["prompt"], **settings["bench"]}, settings["data"]
    name = bench.pop("name")
    found = read_questions(
        name,
        tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in bench.items()),
        source="local" if data["root"] else data["source"],
        place=data["root"] or data.get("id"),
        scenes_split=settings["scenes"]["split"],
        scenes_images=settings["scenes"]["images"],
        limit=None,
    )
    return spread_out(found.samples, settings["samples"], settings["seed"]), f"{name} ({found.data})"


def _draw(plan: Plan, settings: Mapping[str, Any]) -> Drawn:
    """Load the backbone and look."""
    import torch

    from blink.analysis.figures.base import Subject
    from blink.model.checkpoints import load_backbone
    from blink.model.prompts import template_named
    from blink.model.token_sr_files import load_token_sr

    assert plan.figure is not None, "figures of runs are drawn without a backbone"
    model = settings["model"]
    device = model["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    log.info("loading the backbone %s on %s", model["path"], device)
    backbone = load_backbone(
        model["path"],
        revision=model["revision"],
        dtype=model["dtype"],
        device=device,
        device_map=model["device_map"],
        attn_implementation=model["attn_implementation"],
        pad=model["pad"],
    )
    modules = load_token_sr(plan.token_sr, layers=plan.module_layers) if plan.token_sr else {}
    subject = Subject(
        backbone,
        template_named(model["template"]),
        plan.samples,
        settings["patches"],
        modules,
        settings["batch_size"],
        plan.about,
    )
    started = time.perf_counter()
    drawn = plan.figure.draw(subject)
    log.info("%d questions looked at in %.0f s", len(plan.samples), time.perf_counter() - started)
    return drawn


def _family(settings: Mapping[str, Any]) -> str:
    """Row of the preset tables; the tiny one's is not another backbone's."""
    model = settings["model"]
    return "unknown" if model["family"] == "tiny" and model["path"] != "tiny" else str(model["family"])


def _digest(path: Path) -> str:
    return _hash(path.read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain containers."""
    container: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return container


if __name__ == "__main__":
    main()
