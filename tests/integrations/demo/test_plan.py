"""What is shown, from the command's config."""

import pytest

from blink.runs.values import UserError
from tests.integrations.demo.shown import shown_of


def test_defaults_are_the_tiny_backbone_and_its_preset_on_this_machine_alone() -> None:
    """Would catch a page that every network can open, and controls that begin elsewhere than an evaluation."""
    shown = shown_of()
    assert (shown.host, shown.port, shown.name) == ("127.0.0.1", 7860, "tiny")
    policy = shown.policy
    assert (tuple(policy.layers), policy.tau_exp, policy.tau_drop) == ((10,), 0.6, 0.4)
    assert shown.trained == tuple(range(16))
    assert shown.layers == 16


def test_methods_without_modules() -> None:
    """Would catch modules that are asked of a method which has none."""
    interp, encode = shown_of("method=interp"), shown_of("method=encode", "layer=3-5")
    for shown in (interp, encode):
        assert shown.token_sr is None
        assert shown.trained is None
    assert (interp.policy.source, encode.policy.source) == ("coarse", "encode")
    assert tuple(encode.policy.layers) == (3, 4, 5)


def test_what_the_page_cannot_do_is_refused() -> None:
    """Would catch two columns that are the same, and a policy that waits for boxes."""
    for override, words in (("method=vanilla", "held against"), ("selector=box", "boxes")):
        with pytest.raises(UserError, match=words):
            shown_of(override)
