"""What `blink.serve` serves: its config, checked, before any weight is read."""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig

from blink.evaluation.planning.asking import Asked, asked_of
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.evaluation.planning.fit import check_context, context_length
from blink.inference.run import Run
from blink.model.prompts import Template
from blink.runs.config.settings import plain
from blink.runs.values import UserError, number, optional, text, whole_number

WITHOUT = "-vanilla"
"""Behind the name of what is served: the same backbone without Blink."""

_MOST_PORTS = 65535


class Limits(NamedTuple):
    """What a client may ask for.

    Attributes:
        queue: most requests that wait or are answered; others are told to come again.
        seconds: how long a request may wait and be answered.
        megabytes: of a request's body.
        megapixels: of a picture.
        new_tokens: of an answer, whatever a request asks for; none more than the backbone's context.
    """

    queue: int
    seconds: float
    megabytes: float
    megapixels: float
    new_tokens: int


class Serving(NamedTuple):
    """Settings that were checked.

    Attributes:
        name: of the model that answers as `run` says; `name` + "-vanilla" answers without Blink.
        key: what clients have to send as their API key; None: nothing.
        max_new_tokens: of an answer where a request does not say.
        line: which policy it is, for the screen.
    """

    name: str
    host: str
    port: int
    key: str | None
    backbone: Checkpoint
    template: Template
    run: Run
    memory_gb: float
    max_new_tokens: int
    limits: Limits
    line: str

    @property
    def runs(self) -> dict[str, Run]:
        """The names that a request may ask for, and how each answers."""
        return {self.name: self.run, self.name + WITHOUT: Run()} if self.run.policy else {self.name: Run()}


class Site(NamedTuple):
    """Settings that the server and the demo page have in common, checked.

    Attributes:
        name: of the backbone.
        limits: those on waiting, times and pictures, by name.
        asked: how answers are given.
    """

    name: str
    host: str
    port: int
    limits: dict[str, Any]
    asked: Asked


def make_plan(config: DictConfig, overrides: Sequence[str]) -> Serving:
    """Check all settings; of the backbone only the config is read.

    Raises:
        ValueError: something does not fit; says what, and what to do.
    """
    settings = plain(config)
    most = whole_number("limits.new_tokens", settings["limits"]["new_tokens"])
    longest = whole_number("max_new_tokens", settings["max_new_tokens"])
    if longest > most:
        raise UserError(f"max_new_tokens={longest} is above limits.new_tokens={most}")
    memory_gb = number("memory_gb", settings["memory_gb"], above=0)
    key = _key(optional(text, "key_variable", settings["key_variable"]))
    site = site_of(config, settings, overrides, longest, boxless="requests have not")
    asked = site.asked
    return Serving(
        name=optional(text, "name", settings["name"]) or site.name,
        host=site.host,
        port=site.port,
        key=key,
        backbone=asked.checkpoint,
        template=asked.template,
        run=Run(asked.policy, asked.token_sr),
        memory_gb=memory_gb,
        max_new_tokens=longest,
        limits=Limits(**site.limits, new_tokens=min(most, context_length(asked.backbone))),
        line=asked.line,
    )


def site_of(
    config: DictConfig,
    settings: dict[str, Any],
    overrides: Sequence[str],
    max_new_tokens: int,
    *,
    boxless: str,
) -> Site:
    """Check address, limits, and how answers are given.

    Args:
        settings: the config as plain containers.
        max_new_tokens: of an answer.
        boxless: as for `asked_of`.

    Raises:
        ValueError: something does not fit; says what, and what to do.
    """
    host, port = _address(settings)
    limits = settings["limits"]
    others = ("seconds", "megabytes", "megapixels")
    checked = {
        "queue": whole_number("limits.queue", limits["queue"]),
        **{name: number(f"limits.{name}", limits[name], above=0) for name in others},
    }
    asked = asked_of(config, settings, overrides, boxless=boxless)
    check_context(asked.backbone, {"max_new_tokens": max_new_tokens})
    name = str(settings["model"]["path"]).rstrip("/").rpartition("/")[2]
    return Site(name, host, port, checked, asked)


def _address(settings: Mapping[str, Any]) -> tuple[str, int]:
    host = text("host", settings["host"])
    port = whole_number("port", settings["port"], 0)
    if port > _MOST_PORTS:
        raise UserError(f"port={port}: expected at most {_MOST_PORTS}; 0 is any that is free")
    return host, port


def listen(host: str, port: int) -> socket.socket:
    """Take the address before the weights are read, so that one that is taken costs no time.

    Raises:
        UserError: it cannot be had; says why.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            taken.listen()
        except OSError:
            taken.close()
            raise
    except (OSError, UnicodeError) as error:
        raise UserError(f"host={host} port={port}: cannot listen there: {error}") from error
    return taken


def url_of(taken: socket.socket) -> str:
    """The address at which clients find a server that listens."""
    host, port = taken.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UserError(
            f"key_variable={variable}: there is no such environment variable, or it is empty; set it to the key that "
            "clients are to send"
        )
    return key
