"""Client of a chat model behind an OpenAI-compatible endpoint, with retries and a cache of replies on disk.

OpenAI's SDK sends a request and says what went wrong. When to ask again is decided here: its own retries sleep where no
signal ends them, and take a proxy's error page for a reply. Each reply is a file named by the hash of its request, so that a run that was stopped goes on where it was, and runs
with the same answers share them. Knows nothing of benchmarks.
"""

import json
import logging
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from blink.runs.files import read_json, write_json
from blink.runs.values import UserError

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

LONGEST_WAIT = 60.0
"""Seconds between two attempts at most, whatever the server wishes."""

_NEVER = Event()


class Reply(NamedTuple):
    """The endpoint's reply: its text, and the name of the model that it reports."""

    content: str
    model: str


class EndpointError(RuntimeError):
    """The endpoint refused a request, or all attempts failed."""


class _PassingError(Exception):
    """An attempt failed in a way that may pass; the server may have said how many seconds to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class ChatEndpoint:
    """An endpoint, and how long and how often to try.

    Attributes:
        base_url: what `/chat/completions` follows, such as https://api.openai.com/v1.
        model: the name of the model there.
        key: sent as bearer token; None sends none. Never shown, kept on disk or compared.
        timeout: seconds without a byte after which an attempt has failed.
        attempts: how often to ask before giving up on 408, 409, 429, 5xx, time-outs and broken connections.
        first_wait: seconds before the second attempt; each further wait is twice as long, up to a minute.

    Raises:
        ValueError: openai is not installed.
    """

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False, compare=False)
    timeout: float = 60.0
    attempts: int = 8
    first_wait: float = 1.0

    def __post_init__(self) -> None:
        if find_spec("openai") is None:
            raise UserError("judge=endpoint needs openai: pip install 'blink-mllm[judge]'")

    def ask(
        self, text: str, *, temperature: float, max_tokens: int, cache: Path, stop: Event = _NEVER
    ) -> Reply:
        """Return the reply to one user message, from the cache if it was asked before.

        Args:
            cache: folder of the replies, made if need be.
            stop: once set, no further attempt is made.

        Raises:
            EndpointError: the endpoint refuses, or all attempts failed; says why.
            ValueError: a kept reply is damaged.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        kept = cache / f"{sha256(json.dumps([self.base_url, body]).encode()).hexdigest()[:32]}.json"
        if kept.exists():
            return _kept_reply(kept)
        reply = self._with_retries(body, stop)
        cache.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"content": reply.content, "model": reply.model, "asked": body})
        return reply

    def _with_retries(self, body: dict[str, Any], stop: Event) -> Reply:
        """Ask until there is a reply, or no attempt is left."""
        wait = self.first_wait
        with self._client() as client:
            for attempt in range(1, self.attempts + 1):
                try:
                    return self._once(client, body)
                except _PassingError as failure:
                    if attempt == self.attempts:
                        raise EndpointError(
                            f"{self.base_url} gave no reply in {attempt} attempts, the last time: {failure}"
                        ) from failure
                    pause = min(LONGEST_WAIT, wait if failure.wait is None else max(wait, failure.wait))
                    log.info("%s: %s; asking again in %.3g s", self.base_url, failure, pause)
                if stop.wait(pause):
                    raise EndpointError(f"{self.base_url} is not asked again, since another request failed")
                wait *= 2
        raise AssertionError("attempts is at least 1")

    def _client(self) -> "OpenAI":
        """A client that makes one attempt, and follows no redirection with the key."""
        import openai  # takes over a second, and other judges do not need it

        return openai.OpenAI(
            base_url=self.base_url,
            api_key=self.key or "none",  # without any it looks for one in the environment
            timeout=self.timeout,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )

    def _once(self, client: "OpenAI", body: dict[str, Any]) -> Reply:
        import openai

        # OpenAI's organization and project are in the environment of many, and no business of another server
        unsent = ["OpenAI-Organization", "OpenAI-Project", *([] if self.key else ["Authorization"])]
        try:
            response = client.chat.completions.with_raw_response.create(
                **body, extra_headers=dict.fromkeys(unsent, openai.Omit())
            )
        except openai.APIStatusError as error:
            answer = error.response
            reason = f"HTTP {answer.status_code} {answer.reason_phrase}: {answer.text[:500].strip()}"
            if answer.status_code in (408, 409, 429) or answer.status_code >= 500:
                raise _PassingError(reason, _seconds(answer.headers.get("Retry-After"))) from error
            raise EndpointError(f"{answer.url} refuses, {reason}") from error
        except openai.APIConnectionError as error:  # time-outs, refused and broken connections
            cause = error.__cause__ or error
            raise _PassingError(str(cause) or type(cause).__name__) from error
        return _parsed(response.content)


def _parsed(content: bytes) -> Reply:
    """Read a chat completion; raise `_PassingError` for anything else, such as a proxy's error page."""
    try:
        found = json.loads(content)
        said = found["choices"][0]["message"]["content"]
        return Reply("" if said is None else str(said), str(found.get("model", "unnamed")))
    except (ValueError, LookupError, TypeError, AttributeError) as cause:
        shown = content[:200].decode(errors="replace")
        raise _PassingError(f"the reply is no chat completion: {shown!r}") from cause


def _kept_reply(path: Path) -> Reply:
    try:
        found = read_json(path)
        return Reply(found["content"], found["model"])
    except (ValueError, LookupError, TypeError) as cause:
        raise UserError(f"{path} is damaged ({cause}); delete it to have it asked again") from cause


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; its other form, a date, is not read."""
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:
        return None
