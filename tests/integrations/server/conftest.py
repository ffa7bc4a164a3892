"""A server for the tests of this room; they need its extra."""

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed (the extra serve)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra serve)")
pytest.importorskip("openai", reason="openai is not installed (the extra dev)")

from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from tests.integrations.server.served import Server, served


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    """The backbone that ships with the project."""
    return load_backbone("tiny", device="cpu")


@pytest.fixture(scope="module")
def server(tiny: Backbone) -> Iterator[Server]:
    """A server without a key."""
    with served(tiny) as running:
        yield running
