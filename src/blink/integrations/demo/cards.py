"""Answers, errors and the scan as HTML; whatever comes from outside is escaped."""

from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from blink.analysis.explain.answers import Explanation
from blink.analysis.explain.page import flops_in_words, page
from blink.integrations.demo.answering import Progress

_TEMPLATES = Path(__file__).parent / "templates"

LOOK = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
"""The page's own rules, beside Gradio's."""


def cards(progress: Progress) -> str:
    """The answers side by side, as far as they have come."""
    return _template("cards.html").render(progress=progress)


def scan(explained: Explanation) -> str:
    """The page of an explanation, inside this one and as high as it needs to be."""
    return _template("scan.html").render(page=page(explained))


def mistake(message: str) -> str:
    """What is wrong, in one line; nothing for no message."""
    return _template("mistake.html").render(message=" ".join(message.split())) if message else ""


@lru_cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["flops"] = flops_in_words
    return environment.get_template(name)
