"""Many questions and many policies about one picture, each piece of work done once; the answers are those of `attach`.

Read from top to bottom: a file imports only from files above it.

    asks.py       Ask, Answer; prompts split at their picture
    trunk.py      KV caches that all questions about a picture share: of the trunk, and of extensions
    rows.py       text behind a trunk, each piece of work once
    branching.py  before a scanned layer: saliency, decisions, splitting of rows whose runs disagree
    decoding.py   greedy decoding of such rows
    engine.py     Engine: many questions and many policies about one picture, or about many
"""

from blink.inference.engine.asks import Answer, Ask
from blink.inference.engine.engine import Engine

__all__ = ["Answer", "Ask", "Engine"]
