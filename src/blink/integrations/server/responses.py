"""Responses of OpenAI's chat completions, as its clients read them.

Source: OpenAI's API reference, "Create chat completion".
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from blink.inference.policy import Event


class Told(NamedTuple):
    """An answer for a client.

    Attributes:
        finished: "stop", or "length" where `max_new_tokens` cut it.
        prompt_tokens: visual tokens included.
        ids: of the answer, the closing one included.
        events: of the prompt; none without Blink.
        note: why a model with Blink answered without it; None if it did not.
        seconds: that the model took, without waiting; None where it answered several at once.
    """

    text: str
    finished: str
    prompt_tokens: int
    ids: tuple[int, ...]
    events: tuple[Event, ...]
    note: str | None = None
    seconds: float | None = None

    @property
    def new_tokens(self) -> int:
        """How many tokens the answer has."""
        return len(self.ids)


def usage(told: Told) -> dict[str, int]:
    """The counts of a response."""
    return {
        "prompt_tokens": told.prompt_tokens,
        "completion_tokens": told.new_tokens,
        "total_tokens": told.prompt_tokens + told.new_tokens,
    }


def blink_field(told: Told) -> dict[str, Any]:
    """What Blink did, the field of a response that OpenAI's have not."""
    return {"events": [asdict(event) for event in told.events], "without_blink": told.note}


def completion(name: str, key: str, told: Told) -> dict[str, Any]:
    """The body of a response that does not stream."""
    return {
        "id": key,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": told.text},
                "finish_reason": told.finished,
                "logprobs": None,
            }
        ],
        "usage": usage(told),
        "blink": blink_field(told),
    }


def chunk(
    name: str, key: str, delta: Mapping[str, Any] | None, *, finished: str | None = None, **more: Any
) -> dict[str, Any]:
    """One event of a stream; without a delta it holds no choice, as the one that ends with counts."""
    choices = [] if delta is None else [{"index": 0, "delta": dict(delta), "finish_reason": finished}]
    return {
        "id": key,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": name,
        "choices": choices,
        **more,
    }
