"""What `blink.demo` shows: its config, checked, before any weight is read."""

from collections.abc import Sequence
from typing import NamedTuple

from omegaconf import DictConfig

from blink.evaluation.planning.checkpoint import Checkpoint
from blink.inference.policy import Policy
from blink.integrations.server.plan import site_of
from blink.model.prompts import Template
from blink.model.token_sr.files import token_sr_config
from blink.runs.config.settings import plain
from blink.runs.values import UserError, whole_number


class Limits(NamedTuple):
    """What visitors may ask for.

    Attributes:
        queue: most pieces of work that wait for the model.
        seconds: how long a question may wait and be answered.
        megabytes: of a picture's file.
        megapixels: of a picture.
        characters: of a question.
    """

    queue: int
    seconds: float
    megabytes: float
    megapixels: float
    characters: int


class Shown(NamedTuple):
    """Settings that were checked.

    Attributes:
        name: of the backbone, on the page.
        max_new_tokens: of an answer.
        policy: what the page's controls begin with.
        token_sr: folder or hub id of the modules; None for a method without.
        trained: layers that there are modules for; None where none are needed.
        layers: decoder layers of the backbone.
        line: which policy it is, for the screen.
    """

    name: str
    host: str
    port: int
    backbone: Checkpoint
    template: Template
    policy: Policy
    token_sr: str | None
    trained: tuple[int, ...] | None
    layers: int
    max_new_tokens: int
    limits: Limits
    line: str


def make_plan(config: DictConfig, overrides: Sequence[str]) -> Shown:
    """Check all settings; of the backbone only the config is read.

    Raises:
        ValueError: something does not fit; says what, and what to do.
    """
    settings = plain(config)
    characters = whole_number("limits.characters", settings["limits"]["characters"])
    longest = whole_number("max_new_tokens", settings["max_new_tokens"])
    site = site_of(config, settings, overrides, longest, boxless="the page does not ask for")
    asked = site.asked
    if asked.policy is None:
        raise UserError(
            "method=vanilla: it is what the answers are held against; choose blink, interp or encode"
        )
    return Shown(
        name=site.name,
        host=site.host,
        port=site.port,
        backbone=asked.checkpoint,
        template=asked.template,
        policy=asked.policy,
        token_sr=asked.token_sr,
        trained=None if asked.token_sr is None else token_sr_config(asked.token_sr).layers,
        layers=asked.backbone.num_layers,
        max_new_tokens=longest,
        limits=Limits(**site.limits, characters=characters),
        line=asked.line,
    )
