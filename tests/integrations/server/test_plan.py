"""What is served: an address that is taken before any weight is read, and names. The command's mistakes: tests/test_serve.py."""

import socket

import pytest

from blink.integrations.server.plan import listen
from blink.runs.values import UserError
from tests.integrations.server.served import Server


def test_an_address_that_is_taken_is_said() -> None:
    """Would catch weights that are read for nothing."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="cannot listen there"):
            listen("127.0.0.1", other.getsockname()[1])


def test_the_backbone_alone_is_served_beside(server: Server) -> None:
    """Would catch a harness that has nothing to compare with."""
    runs = server.serving.runs
    assert list(runs) == ["small", "small-vanilla"]
    assert runs["small-vanilla"].policy is None
