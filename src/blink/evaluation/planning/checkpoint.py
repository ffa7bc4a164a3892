"""Which backbone to use, and how: its config, processor and template, and the model itself once it is needed.

What was read is kept: the plan of a run, the answerer and the pictures drawn of it share it, and so do the jobs of a sweep.
"""

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Self

import torch

from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone, outline
from blink.model.processors import load_processor
from blink.model.prompts import Template, template_of
from blink.model.views import ViewMaker

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """Which backbone to load, and how; as for `load_backbone`, and device "auto" is a GPU if there is one."""

    path: str
    revision: str | None
    dtype: str
    device: str
    device_map: str | None
    attn_implementation: str
    pad: bool | None
    min_pixels: int | None
    max_pixels: int | None

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Self:
        """The checkpoint that a config's group `model` describes."""
        settings: dict[str, Any] = {key: model.get(key) for key in cls._fields}
        return cls(**settings)

    def outline(self) -> Backbone:
        """The backbone without weights, made from its config, and its processor.

        Raises:
            ValueError: there is no such backbone, or its pictures cannot be made as asked for.
        """
        return _outline(self.path, self.revision, self.pad, self.min_pixels, self.max_pixels)

    def views(self) -> ViewMaker:
        """What the backbone sees of a picture."""
        known = self.outline()
        return ViewMaker(known.processor, grid=known.grid)

    def template(self, name: str | None) -> Template:
        """How it is asked: see `template_of`."""
        return _template(self, name)

    def load(self) -> Backbone:
        """The backbone with its weights; the one that was loaded last is kept."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return _loaded(self._replace(device=device) if self.device == "auto" else self)


@lru_cache(maxsize=4)
def _outline(
    path: str, revision: str | None, pad: bool | None, min_pixels: int | None, max_pixels: int | None
) -> Backbone:
    known = outline(path, revision=revision)
    processor = load_processor(path, revision=revision, pad=pad, min_pixels=min_pixels, max_pixels=max_pixels)
    return Backbone.of(known, processor)


@lru_cache(maxsize=4)
def _template(checkpoint: Checkpoint, name: str | None) -> Template:
    return template_of(checkpoint.outline().processor, name)


@lru_cache(maxsize=1)
def _loaded(checkpoint: Checkpoint) -> Backbone:
    log.info("loading the backbone %s on %s", checkpoint.path, checkpoint.device_map or checkpoint.device)
    return load_backbone(**checkpoint._asdict() | {"path": checkpoint.outline()})


def let_go() -> None:
    """Keep no backbone any longer, so that its memory is free once nobody uses it."""
    _loaded.cache_clear()
