"""Prompts reach the backbone letter by letter as LLaVA wrote them."""

import pytest

from blink.model.prompts import TEMPLATES, template_named


def test_vicuna_is_llavas_prompt_to_the_letter() -> None:
    """Catches "human" for "user" (an older template) and a space after the closing colon."""
    assert TEMPLATES["vicuna_v1"].prompt("Is there a dog?") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nIs there a dog? ASSISTANT:"
    )


def test_mistral_has_no_system_text() -> None:
    """Catches a system sentence slipped into the instruct template."""
    assert TEMPLATES["mistral_instruct"].prompt("Why?") == "[INST] <image>\nWhy? [/INST]"


@pytest.mark.parametrize("name", TEMPLATES)
def test_prefix_is_all_text_before_the_picture(name: str) -> None:
    """Catches a prefix used for training that differs from the one a prompt starts with."""
    template = TEMPLATES[name]
    assert template.prompt("Why?").split("<image>")[0] == template.prefix


@pytest.mark.parametrize(
    ("question", "message"), [("  \n", "blank"), ("What is <image>?", "places the one picture itself")]
)
def test_question_that_breaks_the_prompt_is_refused(question: str, message: str) -> None:
    """Catches prompts that end at the picture, and a second picture smuggled in by a question."""
    with pytest.raises(ValueError, match=message):
        TEMPLATES["vicuna_v1"].prompt(question)


def test_unknown_template_names_the_known_ones() -> None:
    """Catches a bare KeyError for a misspelt template."""
    with pytest.raises(ValueError, match=r"vicuna_v2.*vicuna_v1, mistral_instruct"):
        template_named("vicuna_v2")
