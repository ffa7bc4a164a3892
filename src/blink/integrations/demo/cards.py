"""Answers, errors and the scan as HTML; whatever comes from outside is escaped."""

from pathlib import Path

from blink.analysis.explain.answers import Explanation
from blink.analysis.explain.page import environment, page
from blink.integrations.demo.answering import Progress

_TEMPLATES = Path(__file__).parent / "templates"

LOOK = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
"""The page's own rules, beside Gradio's."""


def cards(progress: Progress) -> str:
    """The answers side by side, as far as they have come."""
    return environment(_TEMPLATES).get_template("cards.html").render(progress=progress)


def scan(explained: Explanation) -> str:
    """The page of an explanation, inside this one and as high as it needs to be."""
    return environment(_TEMPLATES).get_template("scan.html").render(page=page(explained))


def mistake(message: str) -> str:
    """What is wrong, in one line; nothing for no message."""
    if not message:
        return ""
    return environment(_TEMPLATES).get_template("mistake.html").render(message=" ".join(message.split()))
