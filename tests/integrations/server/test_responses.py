"""Responses as clients read them."""

from blink.integrations.server.responses import chunk


def test_a_chunk_with_counts_has_no_choice() -> None:
    """Would catch a last chunk that clients add to the text."""
    assert chunk("m", "k", None, usage={})["choices"] == []
    assert chunk("m", "k", {"content": "a"})["choices"][0]["delta"] == {"content": "a"}
