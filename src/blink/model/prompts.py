"""Conversation templates: how a question about one picture becomes the full prompt of a backbone.

Knows nothing of benchmarks: what a benchmark adds to its question is part of the question here. The
processor turns `<image>` into the picture's tokens and the tokenizer adds the token that starts a text.

Source: `llava/conversation.py` of LLaVA; its evaluation scripts pass `--conv-mode vicuna_v1`.
"""

from dataclasses import dataclass

from blink.runs.values import UserError

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Template:
    """Text before the picture, and text after the question.

    Attributes:
        name: the key in `TEMPLATES`.
        prefix: everything before `<image>`, the system text included. With the start token it is all
            of the prompt that visual tokens attend to.
        suffix: everything after the question.
    """

    name: str
    prefix: str
    suffix: str

    def prompt(self, question: str) -> str:
        """Return the full prompt that asks `question` about one picture.

        Raises:
            ValueError: the question is blank or holds `<image>` itself.
        """
        if not question.strip():
            raise UserError("the question is blank; a prompt needs text after the picture")
        if IMAGE_TOKEN in question:
            raise UserError(f"the question holds {IMAGE_TOKEN!r}; the template places the one picture itself")
        return f"{self.prefix}{IMAGE_TOKEN}\n{question}{self.suffix}"


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("vicuna_v1", prefix=f"{_VICUNA_SYSTEM} USER: ", suffix=" ASSISTANT:"),
        Template("mistral_instruct", prefix="[INST] ", suffix=" [/INST]"),
    )
}


def template_named(name: str) -> Template:
    """Return the template called `name`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in TEMPLATES:
        raise UserError(f"unknown prompt template {name!r}; choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
