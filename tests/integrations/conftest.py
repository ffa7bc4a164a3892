"""The backbone that these rooms are tested on."""

import pytest

from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    """The backbone that ships with the project."""
    return load_backbone("tiny", device="cpu")
