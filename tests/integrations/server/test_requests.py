"""Requests become questions, or are refused in words."""

import json
from typing import Any

import pytest

from blink.integrations.server.requests import Asking, RequestError, read_request
from blink.model.prompts import Template, template_named, template_of
from tests import models
from tests.integrations.server.served import message

VICUNA = template_named("vicuna_v1")


class Processor:
    """Has the conversation template of a model, or none."""

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        """Write the roles and kinds of parts."""
        assert add_generation_prompt
        return "|".join(
            f"{message['role']}:{','.join(part['type'] for part in message['content'])}"
            for message in messages
        )


def read(template: Template = VICUNA, processor: Any = None, **request: Any) -> Any:
    """The question of a request."""
    asking = Asking(["m", "m-vanilla"], template, processor or Processor(), 9, 99, 1)
    return read_request(json.dumps(request).encode(), asking)


def test_a_question_about_a_picture() -> None:
    """Would catch another prompt than evaluations ask by, and a picture that changed."""
    image = models.picture(0, (30, 20))
    asked = read(messages=message("Red?", image))
    assert asked.prompt == VICUNA.prompt("Red?")
    assert asked.image.tobytes() == image.tobytes()
    assert (asked.model, asked.max_new_tokens, asked.sampling, asked.stops) == ("m", 9, None, ())
    other = read(
        messages=message("Red?", image),
        temperature=0.5,
        stop="x",
        max_completion_tokens=5,
        max_tokens=7,
        seed=3,
    )
    assert (other.sampling.temperature, other.sampling.top_p, other.sampling.seed) == (0.5, 1.0, 3)
    assert (other.stops, other.max_new_tokens) == (("x",), 5)
    assert other.digest == asked.digest
    assert read(messages=message("Red?", models.picture(1, (30, 20)))).digest != asked.digest
    assert read(messages=message("Red?", image), temperature=0).sampling is None


def test_text_alone_has_no_mark_of_a_picture() -> None:
    """Would catch a prompt of text that begins a picture and never shows one, as Qwen's own template of a picture does."""
    processor = models.processor(models.family("qwen2_vl", layers=1))
    asked = read(template_of(processor), processor, messages=[{"role": "user", "content": "Red?"}])
    assert asked.image is None
    assert "vision" not in asked.prompt
    assert "Red?" in asked.prompt


def test_several_turns_go_by_the_models_own_template() -> None:
    """Would catch turns that are dropped, and a system text for a model that has its own."""
    turns = [{"role": "system", "content": "Be brief."}, *message("Red?", models.picture(0, (9, 9)))]
    turns += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "Sure?"}]
    chat = Template("chat", "", "")
    found = read(chat, Processor("x"), messages=turns)
    assert found.prompt == "system:text|user:image,text|assistant:text|user:text"
    with pytest.raises(RequestError, match="has no conversation template"):
        read(messages=turns)
    with pytest.raises(RequestError, match=r"model\.template=chat"):
        read(VICUNA, Processor("x"), messages=turns)


IMAGE = message("Red?", models.picture(0, (9, 9)))


@pytest.mark.parametrize(
    ("status", "words", "request_"),
    [
        (404, "'x' is not served; choose m or m-vanilla", {"messages": IMAGE, "model": "x"}),
        (400, "max_tokens=100: this server gives at most 99", {"messages": IMAGE, "max_tokens": 100}),
        (400, "max_tokens: Input should be greater", {"messages": IMAGE, "max_tokens": 0}),
        (400, "temperature", {"messages": IMAGE, "temperature": -1}),
        (400, "n=2 is not supported", {"messages": IMAGE, "n": 2}),
        (400, "logprobs=True is not supported", {"messages": IMAGE, "logprobs": True}),
        (400, "presence_penalty=1", {"messages": IMAGE, "presence_penalty": 1}),
        (400, "response_format", {"messages": IMAGE, "response_format": {"type": "json_object"}}),
        (400, "at most 4 texts", {"messages": IMAGE, "stop": ["a", "b", "c", "d", "e"]}),
        (400, "none of them empty", {"messages": IMAGE, "stop": ""}),
        (400, "the message is blank", {"messages": [{"role": "user", "content": " "}]}),
        (400, "role 'assistant'; expected user", {"messages": [{"role": "assistant", "content": "a"}]}),
        (400, "messages.0.role", {"messages": [{"role": "tool", "content": "a"}]}),
        (400, "stands for a picture", {"messages": message("a <image>", models.picture(0, (9, 9)))}),
        (400, "has no image_url", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        (
            400,
            "1,200 x 900 pixels; this server takes 1",
            {"messages": message("?", models.picture(0, (1200, 900)))},
        ),
        (400, "messages: Field required", {"model": "m"}),
    ],
)
def test_what_cannot_be_answered_is_said(status: int, words: str, request_: dict[str, Any]) -> None:
    """Would catch a setting that is left out in silence."""
    with pytest.raises(RequestError) as caught:
        read(**request_)
    assert caught.value.status == status
    assert words in str(caught.value)
    assert caught.value.body()["error"]["message"] == str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://localhost/a.png", "are not fetched"),
        ("file:///etc/passwd", "are not fetched"),
        ("data:text/html;base64,AAAA", "are not fetched"),
        ("data:image/png;base64,***", "no base64"),
        ("data:image/png;base64,AAAA", "not a picture"),
        ("data:image/png;base64,", "an empty file"),
    ],
)
def test_pictures_stand_in_the_request(url: str, words: str) -> None:
    """Would catch a server that fetches what clients name, and a damaged picture that is our failure."""
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Red?"}]
    with pytest.raises(RequestError, match=words) as caught:
        read(messages=[{"role": "user", "content": content}])
    assert caught.value.status == 400
