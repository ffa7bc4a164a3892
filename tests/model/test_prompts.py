"""Prompts reach the backbone letter by letter as LLaVA wrote them."""

from typing import Any

import pytest

from blink.model.prompts import TEMPLATES, Template, prompt_about, template_named, template_of
from tests import models

CHATTING = [name for name in models.SMALL if name not in ("llava", "llava_next")]
QUESTIONS = ("Is there a dog?", "  What\n{{ 1 }} 'is' <b>that</b> & \"this\"?\\n\n")


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
    with pytest.raises(ValueError, match=r"vicuna_v2.*vicuna_v1, mistral_instruct, chat"):
        template_named("vicuna_v2")


def processor_of(name: str, template: str | None = "") -> Any:
    """A family's processor, or with another conversation template."""
    made = models.processor(models.family(name, layers=1))
    if template != "":
        made.chat_template = template
    return made


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", CHATTING)
def test_chat_is_the_prompt_of_the_processor(name: str, question: str) -> None:
    """Catches a question that is escaped, stripped or put before the picture, a start token that is there twice, and a
    system text that is lost.
    """
    made = processor_of(name)
    parts = [{"type": "image", "image": models.picture(0)}, {"type": "text", "text": question}]
    expected = made.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    template = template_of(made, "chat")
    text = template.prompt(question)
    found = made(images=[[models.picture(0)]], text=[text], return_tensors="pt")
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert text.startswith(template.prefix + made.image_token)
    assert template_of(made) == template  # null: the checkpoint's own


def test_system_text_of_a_template_is_part_of_the_prefix() -> None:
    """Catches Qwen2-VL asked without its default system text, and a prefix that the training would not know."""
    assert template_of(processor_of("qwen2_vl"), "chat").prefix == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    )
    assert template_of(processor_of("qwen3_vl"), "chat").prefix == "<|im_start|>user\n<|vision_start|>"


@pytest.mark.parametrize(
    ("name", "token"), [("qwen2_vl", "<|image_pad|>"), ("internvl", "<video>"), ("smolvlm", "<image>")]
)
def test_question_with_a_token_of_the_processor_is_refused(name: str, token: str) -> None:
    """Catches a question that smuggles in a second picture, or a video that is not there."""
    with pytest.raises(ValueError, match="places the one picture itself"):
        template_of(processor_of(name), "chat").prompt(f"What is {token}?")


def test_null_asks_a_llava_on_vicuna_as_its_authors_do() -> None:
    """Catches the hub's template of LLaVA-1.5, which lacks the system text, and a Mistral that is asked as a Vicuna."""
    turns = "{% for message in messages %}{{ message['role'].upper() }}: <image>\n{{ message['content'][1]['text'] }}{% endfor %}"
    hub = turns + "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
    mistral = "[INST] <image>\n{{ messages[0]['content'][1]['text'] }} [/INST]"
    for template in (None, hub):
        assert template_of(processor_of("llava", template)) == TEMPLATES["vicuna_v1"]
        assert template_of(processor_of("llava_next", template)) == TEMPLATES["vicuna_v1"]
    assert template_of(processor_of("llava", hub), "chat").prompt("Why?") == "USER: <image>\nWhy? ASSISTANT:"
    found = template_of(processor_of("llava_next", mistral))
    assert found.prompt("Why?") == TEMPLATES["mistral_instruct"].prompt("Why?")


def test_template_that_strips_questions_is_followed() -> None:
    """Catches white space that the checkpoint was never asked with."""
    stripping = "Q: <image>{{ messages[0]['content'][1]['text'] | trim }} A:"
    assert template_of(processor_of("llava", stripping), "chat").prompt(" Why?\n") == "Q: <image>Why? A:"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no conversation template; choose model.template=vicuna_v1 or mistral_instruct"),
        ("{{ messages[0]['content'] | string }}", "expected one '<image>' and then the question"),
        ("{{ messages[0]['content'][1]['text'] }}<image>", "expected one '<image>' and then the question"),
        ("{{ raise_exception('no pictures') }}", "fails on a picture and a question: no pictures"),
        (
            "<image>{{ messages[0]['content'][1]['text'] | lower | capitalize }}",
            "changes the text of a question",
        ),
    ],
)
def test_template_that_will_not_do_is_told(template: str | None, message: str) -> None:
    """Catches prompts without picture or question, and an error from within jinja."""
    with pytest.raises(ValueError, match=message):
        template_of(processor_of("llava", template), "chat")


def test_written_out_template_needs_its_image_token() -> None:
    """Catches Qwen asked about the word "<image>"."""
    with pytest.raises(ValueError, match=r"takes '<\|image_pad\|>'; choose model.template=chat"):
        template_of(processor_of("qwen2_vl"), "vicuna_v1")


@pytest.mark.parametrize("name", CHATTING)
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_any_number_of_pictures_is_asked_as_the_processor_asks(name: str, pictures: int) -> None:
    """Catches a vision mark without a picture in a prompt of text alone, and pictures that stand behind the question."""
    made = processor_of(name)
    template = template_of(made, "chat")
    content = [*[{"type": "image"}] * pictures, {"type": "text", "text": "Why?"}]
    expected = made.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    found = prompt_about(template, made, "Why?", pictures)
    assert expected in (found, f"{made.tokenizer.bos_token}{found}")  # which the tokenizer may add
    assert found.count(made.image_token) == pictures


def test_a_question_says_where_its_pictures_stand() -> None:
    """Catches pictures that are moved to the front, and another image token than the processor's own."""
    vicuna = TEMPLATES["vicuna_v1"]
    said = vicuna.prefix + "Is <image> as large as <image>?" + vicuna.suffix
    assert prompt_about(vicuna, None, "Is <image> as large as <image>?", 2) == said
    assert prompt_about(vicuna, None, "Why?", 2) == f"{vicuna.prefix}<image>\n<image>\nWhy?{vicuna.suffix}"
    assert prompt_about(vicuna, None, "Why?", 0) == f"{vicuna.prefix}Why?{vicuna.suffix}"
    assert prompt_about(vicuna, None, "Why?", 1) == vicuna.prompt("Why?")
    qwen = processor_of("qwen2_vl")
    found = prompt_about(template_of(qwen, "chat"), qwen, "Is <image> red?", 1)
    assert "Is <|vision_start|><|image_pad|><|vision_end|> red?" in found


@pytest.mark.parametrize(
    ("question", "pictures", "message"),
    [
        ("Is <image> red?", 2, "says 1 times where a picture stands, and has 2"),
        ("Is <image> red?", 0, "says 1 times where a picture stands, and has 0"),
        (" ", 0, "blank"),
        ("<image> <image>", 2, "blank"),
        ("<image><pad> red?", 1, "holds '<pad>'"),
    ],
)
def test_pictures_that_do_not_fit_their_question_are_refused(
    question: str, pictures: int, message: str
) -> None:
    """Catches a prompt whose image tokens and pictures differ in number, which fails deep in the model or in silence."""
    template = Template("t", "", "", reserved=("<image>", "<pad>"))
    with pytest.raises(ValueError, match=message):
        prompt_about(template, None, question, pictures)
