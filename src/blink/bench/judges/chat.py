"""Client of a chat model behind an OpenAI-compatible endpoint, with retries and a cache of replies on disk.

Each reply is a file named by the hash of its request, so that a run that was stopped goes on where it was, and runs
with the same answers share them. Knows nothing of benchmarks.
"""

import json
import logging
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from threading import Event
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from blink.runs.files import read_json, write_json
from blink.runs.values import UserError

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


class _NoRedirect(HTTPRedirectHandler):
    """Leaves a redirection to be an error: following it would send the key to wherever it points."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


_OPENER = build_opener(_NoRedirect)


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
    """

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False, compare=False)
    timeout: float = 60.0
    attempts: int = 8
    first_wait: float = 1.0

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
        for attempt in range(1, self.attempts + 1):
            try:
                return self._once(body)
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

    def _once(self, body: dict[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json"} | (
            {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        )
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        request = Request(url, json.dumps(body).encode(), headers, method="POST")
        try:
            with _OPENER.open(request, timeout=self.timeout) as response:
                content: bytes = response.read()
        except HTTPError as error:
            with error:
                said = error.read(500).decode(errors="replace").strip()
            reason = f"HTTP {error.code} {error.reason}: {said}"
            if error.code in (408, 409, 429) or error.code >= 500:
                raise _PassingError(reason, _seconds(error.headers.get("Retry-After"))) from error
            raise EndpointError(f"{url} refuses, {reason}") from error
        except (OSError, HTTPException) as error:  # time-outs, refused and broken connections
            raise _PassingError(str(error) or type(error).__name__) from error
        return _parsed(content)


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
