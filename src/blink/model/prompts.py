"""Conversation templates: how a question about one picture becomes the full prompt of a backbone.

Knows nothing of benchmarks: what a benchmark adds to its question is part of the question here. The
processor turns the image token into the picture's tokens, and the tokenizer adds the token that starts a text.

Source: `llava/conversation.py` of LLaVA for the two that are written out here; its evaluation scripts pass
`--conv-mode vicuna_v1`. All other models are asked by the template that their own processor has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blink.runs.values import UserError

IMAGE_TOKEN = "<image>"
"""Stands for the picture in the prompts of the templates that are written out here."""

CHAT = "chat"
"""Name of the template that a checkpoint's own processor has."""


@dataclass(frozen=True)
class Template:
    """Text before the picture, between picture and question, and after the question.

    Attributes:
        name: the key in `TEMPLATES`, or `CHAT`.
        prefix: everything before the image token, the system text included. With the start token and what the
            processor puts in front of a picture it is all of the prompt that visual tokens attend to.
        suffix: everything after the question.
        image: the image token, as the processor knows it.
        between: text between image token and question.
        reserved: what a question must not hold: the image token, and those of videos and sounds.
        strips: whether a question loses the white space around it.
    """

    name: str
    prefix: str
    suffix: str
    image: str = IMAGE_TOKEN
    between: str = "\n"
    reserved: tuple[str, ...] = (IMAGE_TOKEN,)
    strips: bool = False

    def prompt(self, question: str) -> str:
        """Return the full prompt that asks `question` about one picture.

        Raises:
            ValueError: the question is blank or holds an image token itself.
        """
        if not question.strip():
            raise UserError("the question is blank; a prompt needs text after the picture")
        for token in self.reserved:
            if token in question:
                raise UserError(f"the question holds {token!r}; the template places the one picture itself")
        return f"{self.prefix}{self.image}{self.between}{question.strip() if self.strips else question}{self.suffix}"


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

_VICUNA = Template("vicuna_v1", prefix=f"{_VICUNA_SYSTEM} USER: ", suffix=" ASSISTANT:")

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (_VICUNA, Template("mistral_instruct", prefix="[INST] ", suffix=" [/INST]"))
}

_BARE_VICUNA = "USER: "
"""What the hub's LLaVAs on Vicuna write before a picture: `vicuna_v1` without the system text of LLaVA's evaluation."""

_PROBES = ("Which colour has it?", "\n  A: {{ 1 }} <b>'\"\\ & so on?\n")
"""Questions from which a processor's template is read off, and by which that is checked."""


def check_name(name: str | None) -> None:
    """Raise ValueError if no template has this name; None is the one that fits the checkpoint."""
    if name is not None and name not in (*TEMPLATES, CHAT):
        raise UserError(f"unknown prompt template {name!r}; choose one of {', '.join((*TEMPLATES, CHAT))}")


def template_named(name: str) -> Template:
    """Return the template called `name`, of those that are the same for all checkpoints.

    Raises:
        ValueError: there is none of that name.
    """
    check_name(name)
    if name == CHAT:
        raise UserError("the template 'chat' is that of a processor: blink.model.prompts.template_of")
    return TEMPLATES[name]


def template_of(processor: Any, name: str | None = None) -> Template:
    """Return the template called `name` for prompts that a processor takes.

    Args:
        name: a key of `TEMPLATES`; "chat" for the processor's own; None for what fits the checkpoint: its own, but
            `vicuna_v1` for the LLaVAs on Vicuna, whose own lacks the system text, and where a LLaVA has none.

    Raises:
        ValueError: there is no such template, the processor has none of its own, or its image token is another one.
    """
    check_name(name)
    if name in TEMPLATES:
        template = TEMPLATES[name]
        if template.image != processor.image_token:
            raise UserError(
                f"the template {name} writes {template.image!r} for a picture, and this model's processor takes "
                f"{processor.image_token!r}; choose model.template={CHAT}"
            )
        return template
    if name is None and processor.chat_template is None and _is_llava(processor):
        return _VICUNA
    found = conversation(processor)
    vicuna = found.prefix in (_BARE_VICUNA, _VICUNA.prefix)
    return _VICUNA if name is None and _is_llava(processor) and vicuna else found


def conversation(processor: Any) -> Template:
    """Read off how a processor's own conversation template asks about one picture.

    The user's turn is the image and then the text, the assistant's follows; a system text is there if the template
    writes one by itself.

    Raises:
        ValueError: the processor has no template, or one that does not write one picture before the question.
    """
    if processor.chat_template is None:
        raise UserError(
            f"this checkpoint's processor has no conversation template; choose model.template={' or '.join(TEMPLATES)} "
            "if it was trained with that"
        )
    image = processor.image_token
    written = _written(processor, ["", _PROBES[0]])
    prefix, _, rest = written.partition(image)
    between, probe, suffix = rest.partition(_PROBES[0])
    if not probe or written.count(image) != 1 or written.count(_PROBES[0]) != 1:
        raise UserError(
            f"the conversation template of this checkpoint's processor writes {written!r} for a picture and a question; "
            f"expected one {image!r} and then the question"
        )
    others = (getattr(processor, f"{kind}_token", None) for kind in ("video", "audio"))
    reserved = (image, *(token for token in others if token))
    for strips in (False, True):
        template = Template(CHAT, prefix, suffix, image, between, reserved, strips)
        if template.prompt(_PROBES[1]) == _written(processor, ["", _PROBES[1]]):
            return template
    raise UserError(
        "the conversation template of this checkpoint's processor changes the text of a question; choose another "
        f"model.template ({', '.join(TEMPLATES)})"
    )


def prompt_about(template: Template, processor: Any, question: str, pictures: int) -> str:
    """Return the full prompt that asks a question about any number of pictures, or about none.

    `IMAGE_TOKEN` in the question says where each picture stands, whatever the processor's own image token is; where it
    holds none, the pictures come first.

    Args:
        template: one of `template_of` for this processor.

    Raises:
        ValueError: the question is blank, says where another number of pictures stands, or holds what stands for one.
    """
    parts = question.split(IMAGE_TOKEN)
    named = len(parts) - 1
    if named == 0 and pictures == 1:
        return template.prompt(question)
    if named not in (0, pictures):
        raise UserError(
            f"the question says {named} times where a picture stands, and has {pictures} pictures"
        )
    if not any(part.strip() for part in parts):
        raise UserError("the question is blank; a prompt needs text beside the pictures")
    for token in template.reserved:
        if any(token in part for part in parts):
            raise UserError(f"the question holds {token!r}, which stands for a picture")
    if template.name == CHAT:
        return _written(processor, parts if named else [*[""] * pictures, question])
    asked = template.image.join(parts)
    lead = "" if named else (template.image + template.between) * pictures
    return f"{template.prefix}{lead}{asked}{template.suffix}"


def _written(processor: Any, texts: Sequence[str]) -> str:
    """The prompt that a processor's conversation template writes for a picture between each two texts, as its tokenizer takes it."""
    content: list[dict[str, str]] = []
    pictures = "a picture" if len(texts) == 2 else f"{len(texts) - 1} pictures"
    for number, text in enumerate(texts):
        content += [{"type": "image"}] if number else []
        content += [{"type": "text", "text": text}] if text else []
    try:
        prompt: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
    except Exception as error:  # whatever a template may do
        raise UserError(
            f"the conversation template of this checkpoint's processor fails on {pictures} and a question: {error}"
        ) from error
    start = processor.tokenizer.bos_token
    # where the tokenizer begins each text with the start token, one in the text would be a second
    return (
        prompt.removeprefix(start)
        if start and processor.tokenizer("")["input_ids"][:1] == [processor.tokenizer.bos_token_id]
        else prompt
    )


def _is_llava(processor: Any) -> bool:
    return type(processor).__name__ in ("LlavaProcessor", "LlavaNextProcessor")
