"""Many questions and many policies about pictures, each piece of work done once; the answers are those of `attach`.

Read from top to bottom: a file imports only from files above it.

    asks.py       Ask, Answer; pictures processed and encoded, prompts split at them
    sharing/      keys that rows share, trunks' and extensions', each computed once, and attention to them
    rows.py       text behind trunks, layer by layer
    branching.py  before a scanned layer: saliency, decisions, splitting of rows whose runs disagree
    decoding.py   which token follows, and where an answer ends
    slots.py      KV cache of rows that decode, for their own tokens
    pool.py       rows that decode together, enter and leave
    wave.py       prompts of some asks, from visual tokens to the last layer
    lanes.py      calls side by side, in threads with a share of the cores each
    schedule.py   what is done next: further prompts, or a token of each row
    apart.py      answers that share nothing, by `attach` and `generate`
    engine.py     Engine: the public calls
"""

from blink.inference.engine.asks import Answer, Ask
from blink.inference.engine.engine import Engine

__all__ = ["Answer", "Ask", "Engine"]
