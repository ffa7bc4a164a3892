"""A server for the tests of this room.

Files of the room that are tested where they are used:

    jobs.py      test_answering.py
"""

from collections.abc import Iterator

import pytest

from blink.model.backbone import Backbone
from tests.integrations.server.served import Server, served


@pytest.fixture(scope="module")
def server(tiny: Backbone) -> Iterator[Server]:
    """A server without a key."""
    with served(tiny) as running:
        yield running
