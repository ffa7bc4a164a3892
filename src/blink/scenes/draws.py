"""Questions of one kind, drawn until one fits: what the editions on scenes choose from."""

import random
from collections.abc import Iterator

from blink.scenes.ask import Question, ask
from blink.scenes.view import View

TRIES = 300
"""A yes/no question is one in five draws of most kinds: so many miss one that can be asked next to never."""


def draws(seen: View, kind: str, rng: random.Random) -> Iterator[Question]:
    """Up to ``TRIES`` questions of a kind about a view, repeats among them; fewer where none can be asked."""
    drawn = (ask(seen, kind, rng) for _ in range(TRIES))
    return (question for question in drawn if question is not None)


def is_closed(question: Question) -> bool:
    """Whether the answer is yes or no."""
    return question.answer in ("Yes", "No")
