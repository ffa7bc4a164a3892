"""The images of a training run, the questions about them, and where features of them are stored."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blink.model.backbone import Backbone
from blink.model.processors import load_processor
from blink.model.prompts import Template, template_of
from blink.model.token_sr import Design, design_of
from blink.model.views import ViewMaker, prefix_ids
from blink.runs.inputs.pictures import Rules
from blink.runs.values import UserError
from blink.scenes.draw import SIZE, SPLIT_SIZE, SceneImages
from blink.training.answers.lessons import LessonMaker
from blink.training.answers.questions import SceneQuestions, questions_by_image, with_questions
from blink.training.data import Questions
from blink.training.features.fill import open_store
from blink.training.features.per_image import StoredFeatures
from blink.training.features.states import layers_read
from blink.training.images import (
    DrawnImages,
    Images,
    ImageSubset,
    annotations_of,
    hub_images,
    local_images,
)
from blink.training.manifest import MANIFEST, Portions, check_images, split
from blink.training.parts.modules import outlined_module
from blink.training.plan import Plan

log = logging.getLogger(__name__)

_SCENES = 2000
"""Scenes to train on unless `images` says otherwise."""


def open_images(plan: Plan) -> Images | None:
    """Open the source of images, without decoding them; None for scenes, which are drawn.

    Raises:
        ValueError: there is no such source, or nothing in it.
    """
    rules = Rules.of(plan.config["data"], scaled=True)
    if plan.roots:
        return local_images(plan.roots, rules)
    if plan.data_set is not None:
        id, name, split_name, column = plan.data_set
        return hub_images(id, name=name, split=split_name, column=column, rules=rules)
    return None


class LeftOut(NamedTuple):
    """How many images could not be read, and how many are too narrow to have quadrants."""

    unreadable: int = 0
    narrow: int = 0


class TrainingImages(NamedTuple):
    """The images of a run, and all that makes batches of them.

    Attributes:
        prefix: text before the image in prompts.
        views: makes the views of an image.
        stored: where features of them are read from; None where the backbone computes them.
        portions: to train on and to measure on.
        left_out: how many could not be used.
        questions: about them; None where KL alone is trained.
    """

    prefix: str
    views: ViewMaker
    stored: StoredFeatures | None
    portions: Portions
    left_out: LeftOut
    questions: Questions | None


def find_images(
    plan: Plan, outlined: Backbone, images: Images | None, references: Mapping[int, Design], folder: Path
) -> TrainingImages:
    """Look at all images once, split them, and find the questions about them.

    Args:
        images: as `open_images` gave them.
        references: modules that are measured beside the new ones; features on disk have to serve them, too.
        folder: of the run.

    Raises:
        ValueError: too many images are unreadable, too few are left, there are no questions about them, or
            `data.cache_features` holds features that are not this run's.
    """
    processor = load_processor(plan.backbone, revision=plan.revision, **plan.pictures)
    template = template_of(processor, plan.template)
    views = ViewMaker(processor, template.prefix, outlined.grid)
    ids_1P = prefix_ids(processor, template.prefix)
    stored = _stored_features(plan, outlined, processor, ids_1P, views, references)
    portions, left_out = _image_portions(plan, images, folder, views, stored)
    portions, questions = _ask(plan, portions, processor, template)
    return TrainingImages(template.prefix, views, stored, portions, left_out, questions)


def _image_portions(
    plan: Plan, images: Images | None, folder: Path, views: ViewMaker, stored: StoredFeatures | None
) -> tuple[Portions, LeftOut]:
    """Return the images to train on and to measure on, and how many were left out.

    The manifest is written beside the stored features, for all runs that read these, or else in `folder`.

    Raises:
        ValueError: too many images are unreadable, or too few are left.
    """
    if images is None:
        count = plan.images or _SCENES
        train, measured = (
            ImageSubset(
                DrawnImages(SceneImages("token_sr", number, start), "scenes", start),
                tuple(range(number)),
                sizes=((SIZE, SIZE),) * number,
            )
            for number, start in ((count, 0), (plan.held_out, SPLIT_SIZE))
        )
        return Portions(train, measured), LeftOut()
    file = folder / MANIFEST if stored is None else stored.store.beside(images.fingerprint, MANIFEST)
    manifest = check_images(images, file)
    fitting = manifest.only(views.has_quadrants)
    narrow = len(manifest.readable) - len(fitting.readable)
    if narrow:
        found = (
            f"{narrow} of {len(manifest.readable)} images are too narrow: one row or column of visual tokens"
        )
        if len(fitting.readable) < 2:
            raise UserError(f"{found}; training needs at least two others")
        log.warning("left out: %s", found)
    portions = split(images, fitting, held_out=plan.held_out, limit=plan.images, seed=plan.seed)
    return portions, LeftOut(len(manifest.unreadable), narrow)


def _ask(
    plan: Plan, portions: Portions, processor: Any, template: Template
) -> tuple[Portions, Questions | None]:
    """Find the questions about the images to train on and to measure on; of images without any none is kept.

    Raises:
        ValueError: there are none, or what lists them is broken.
    """
    if not plan.answer_weight:
        return portions, None
    maker = LessonMaker(processor, template, keep_image=design_of(plan.kind).needs_crop)
    seen = plan.kl_weight > 0
    if not plan.roots:
        train, measured = (SceneQuestions("token_sr", first) for first in (0, SPLIT_SIZE))
        return portions, Questions(train, measured, maker, seen)
    listed = annotations_of(plan.roots)
    assert listed is not None, "the plan has one"
    by_image = questions_by_image(*listed, Rules.of(plan.config["data"], scaled=True))
    (kept, asked), (kept_out, asked_out) = (with_questions(portion, by_image) for portion in portions)
    return Portions(kept, kept_out), Questions(asked, asked_out, maker, seen)


def _stored_features(
    plan: Plan,
    outlined: Backbone,
    processor: Any,
    prefix_ids_1P: Tensor,
    views: ViewMaker,
    references: Mapping[int, Design],
) -> StoredFeatures | None:
    """Open the folder of features that `data.cache_features` names; None without one.

    Raises:
        ValueError: it holds features that are not this run's.
    """
    if plan.cache_features is None:
        return None
    dtype = outlined.dtype if plan.dtype == "auto" else getattr(torch, plan.dtype)
    store = open_store(plan.cache_features, outlined, processor, prefix_ids_1P, dtype=dtype)
    modules = dict.fromkeys(plan.layers, outlined_module(plan, outlined))
    layers = sorted({*layers_read(modules), *layers_read(references)})
    return StoredFeatures(store, tuple(layers), dtype, views)
