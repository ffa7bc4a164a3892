"""Requests of OpenAI's chat completions, as its clients send them, checked.

Settings that would change an answer and that are not supported are refused, never left out in silence; those that change
nothing here (`user`, `metadata`) are ignored, as are fields that OpenAI may add.

Source: OpenAI's API reference, "Create chat completion".
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blink.model.prompts import CHAT, Template, prompt_about
from blink.runs.files import short_digest
from blink.runs.inputs.pictures import Reading, UnreadableImageError
from blink.runs.values import UserError

_READING = Reading()


class RequestError(Exception):
    """A request that is not answered: HTTP status, what is wrong, in words, and the field that it is about."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field = status, field

    def body(self) -> dict[str, Any]:
        """The body of the response, of the form that OpenAI's clients read."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.field, "code": None}}


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Url(_Loose):
    url: str


class _Part(_Loose):
    type: Literal["text", "image_url"]
    text: str = ""
    image_url: _Url | None = None


class _Message(_Loose):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    @property
    def parts(self) -> list[_Part]:
        return (
            [_Part(type="text", text=self.content)] if isinstance(self.content, str) else list(self.content)
        )


class _StreamOptions(_Loose):
    include_usage: bool = False


class ChatRequest(_Loose):
    """A request's body. Answers are greedy unless it asks for a temperature above 0."""

    model: str | None = None
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None


_ONLY: Mapping[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
}
"""Fields that would change an answer, and the values that do not."""


class Sampling(NamedTuple):
    """How an answer is drawn, as `generate` takes it."""

    temperature: float
    top_p: float
    seed: int | None


class Question(NamedTuple):
    """What a request asks, checked.

    Attributes:
        model: the name that it asks for.
        prompt: the full prompt, with one image token if there is a picture.
        image: None for text alone.
        digest: hash of the picture's pixels: questions about one picture share work.
        stops: texts before which an answer ends.
        sampling: None for the largest logit.
    """

    model: str
    prompt: str
    image: Image.Image | None
    digest: str
    max_new_tokens: int
    stops: tuple[str, ...]
    sampling: Sampling | None
    stream: bool
    include_usage: bool


class Asking(NamedTuple):
    """By what a request becomes a `Question`.

    Attributes:
        names: models that can be asked for; the first answers where a request names none.
        template: of one question about one picture.
        processor: whose own conversation template serves several turns.
        max_new_tokens: where a request does not say.
        most_new_tokens: and at most.
        megapixels: most of a picture.
    """

    names: Sequence[str]
    template: Template
    processor: Any
    max_new_tokens: int
    most_new_tokens: int
    megapixels: float


def read_request(body: bytes, asking: Asking) -> Question:
    """Check a request's body, and decode its picture.

    Raises:
        RequestError: it cannot be answered; says why.
    """
    request = _parsed(body)
    name = asking.names[0] if request.model is None else request.model
    if name not in asking.names:
        raise RequestError(404, f"model {name!r} is not served; choose {' or '.join(asking.names)}", "model")
    longest = request.max_completion_tokens or request.max_tokens or asking.max_new_tokens
    if longest > asking.most_new_tokens:
        raise RequestError(
            400, f"max_tokens={longest}: this server gives at most {asking.most_new_tokens}", "max_tokens"
        )
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if len(stops) > 4 or not all(stops):
        raise RequestError(400, "stop: expected at most 4 texts, none of them empty", "stop")
    urls = [part.image_url for message in request.messages for part in message.parts if part.type != "text"]
    if len(urls) > 1:
        raise RequestError(400, f"{len(urls)} pictures; Blink answers about one", "messages")
    image = None
    if urls:
        if urls[0] is None:
            raise RequestError(400, "a part of type image_url has no image_url", "messages")
        image = _picture(urls[0].url, asking.megapixels)
    try:
        prompt = _prompt(request.messages, asking, pictured=image is not None)
    except UserError as error:
        raise RequestError(400, str(error), "messages") from error
    sampling = None
    if request.temperature:
        sampling = Sampling(
            request.temperature, 1.0 if request.top_p is None else request.top_p, request.seed
        )
    options = request.stream_options or _StreamOptions()
    digest = "" if image is None else short_digest(repr(image.size).encode() + image.tobytes())
    return Question(
        name, prompt, image, digest, longest, stops, sampling, request.stream, options.include_usage
    )


def _parsed(body: bytes) -> ChatRequest:
    try:
        fields = json.loads(body)
        request = ChatRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise RequestError(400, f"{field or 'the body'}: {first['msg']}", field or None) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {error}") from error
    for field, values in _ONLY.items():
        if field in fields and fields[field] not in values:
            raise RequestError(400, f"{field}={fields[field]!r} is not supported; leave it out", field)
    return request


def _picture(url: str, megapixels: float) -> Image.Image:
    """Decode a picture that stands in the request itself; nothing is fetched for a client."""
    head, comma, data = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64") and comma):
        raise RequestError(
            400,
            "image_url: expected data:image/...;base64,...; pictures at other addresses are not fetched",
            "messages",
        )
    try:
        content = base64.b64decode(data, validate=True)
        size = _READING.size(content, "the picture")
        if size[0] * size[1] > megapixels * 1e6:
            raise RequestError(
                400,
                f"the picture has {size[0]:,} x {size[1]:,} pixels; this server takes {megapixels:g} million",
                "messages",
            )
        return _READING(content, "the picture")
    except binascii.Error as error:
        raise RequestError(400, f"image_url: no base64: {error}", "messages") from error
    except UnreadableImageError as error:
        raise RequestError(400, str(error), "messages") from error


def _prompt(messages: Sequence[_Message], asking: Asking, *, pictured: bool) -> str:
    """The full prompt: one question by the template of evaluations, several turns by the processor's own.

    Raises:
        UserError: there is no text, or it holds an image token, or the model has no template for several turns.
    """
    if messages[-1].role != "user":
        raise UserError(f"the last message is of role {messages[-1].role!r}; expected user")
    template = asking.template
    texts = ["\n".join(part.text for part in message.parts if part.type == "text") for message in messages]
    for text in texts:
        for token in template.reserved:
            if token in text:
                raise UserError(
                    f"a message holds {token!r}, which stands for a picture; send it as image_url"
                )
    if len(messages) == 1:
        if pictured:
            return template.prompt(texts[0])
        if not texts[0].strip():
            raise UserError("the message is blank")
        return prompt_about(template, asking.processor, texts[0], 0)
    if getattr(asking.processor, "chat_template", None) is None:
        raise UserError(
            f"{len(messages)} messages: this model's processor has no conversation template for several; send one user message"
        )
    if template.name != CHAT:
        raise UserError(
            f"{len(messages)} messages: model.template={template.name} is for one; serve with model.template={CHAT}"
        )
    if not texts[-1].strip():
        raise UserError("the last message is blank")
    written = [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": [
                {"type": "text", "text": part.text} if part.type == "text" else {"type": "image"}
                for part in message.parts
            ],
        }
        for message in messages
    ]
    try:
        prompt: str = asking.processor.apply_chat_template(written, add_generation_prompt=True)
    except Exception as error:  # templates are programs of the checkpoint, and raise what they like
        raise UserError(f"the model's conversation template does not take these messages: {error}") from error
    return prompt
