"""Routes: `/v1/chat/completions`, `/v1/models` and `/health`; limits, the API key, and streams."""

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from blink.integrations.server.answering import Answering, explain
from blink.integrations.server.jobs import Job
from blink.integrations.server.plan import Serving
from blink.integrations.server.requests import Asking, Question, RequestError, read_request
from blink.integrations.server.responses import Told, blink_field, chunk, completion, usage
from blink.model.backbone import Backbone

_LOOK_SECONDS = 0.2
"""How often is looked whether a client that waits is still there."""


def make_app(serving: Serving, backbone: Backbone) -> FastAPI:
    """The application that answers with a backbone.

    Raises:
        ValueError: the policy or its modules do not fit the backbone.
    """
    answering = Answering(backbone, serving.runs, memory_gb=serving.memory_gb, most=serving.limits.queue)
    asking = Asking(
        list(serving.runs),
        serving.template,
        backbone.processor,
        serving.max_new_tokens,
        serving.limits.new_tokens,
        serving.limits.megapixels,
    )
    started = int(time.time())

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(answering.close)

    app = FastAPI(title="Blink", lifespan=living, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        again = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse(error.body(), error.status, headers=again)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def elsewhere(request: Request, _: Exception) -> JSONResponse:
        error = RequestError(
            404, f"{request.method} {request.url.path}: there are /v1/chat/completions and /v1/models"
        )
        return JSONResponse(error.body(), error.status)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "waiting": answering.waiting}

    @app.get("/v1/models")
    async def names(request: Request) -> dict[str, Any]:
        _check_key(request, serving.key)
        models = [
            {"id": name, "object": "model", "created": started, "owned_by": "blink"} for name in serving.runs
        ]
        return {"object": "list", "data": models}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        _check_key(request, serving.key)
        body = await _body(request, int(serving.limits.megabytes * 1e6))
        question = await run_in_threadpool(read_request, body, asking)
        answer = _Answer(question, serving.limits.seconds)
        answering.submit(answer.job)
        key = f"chatcmpl-{uuid.uuid4().hex}"
        if question.stream:
            return StreamingResponse(_events(answer, question, key), media_type="text/event-stream")
        told = await answer.whole(request)
        return JSONResponse(completion(question.model, key, told))

    return app


class _Answer:
    """An answer as it arrives from the model's thread."""

    def __init__(self, question: Question, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._parts: asyncio.Queue[str | Told | Exception] = asyncio.Queue()

        def arrived(part: str | Told | Exception) -> None:
            loop.call_soon_threadsafe(self._parts.put_nowait, part)

        self.job = Job(question, time.monotonic() + seconds, arrived, arrived)

    async def next(self, wait: float) -> str | Told | None:
        """The next part; None if it takes longer than some seconds.

        Raises:
            RequestError: there is none, or the time is over.
        """
        left = self.job.deadline - time.monotonic()
        if left <= 0:
            raise RequestError(504, f"no answer within {self._seconds:g} seconds")
        try:
            part = await asyncio.wait_for(self._parts.get(), min(wait, left))
        except TimeoutError:
            return None
        if isinstance(part, Exception):
            raise explain(part)
        return part

    async def whole(self, request: Request) -> Told:
        """The whole answer; a client that is gone gives it up."""
        try:
            while not isinstance(part := await self.next(_LOOK_SECONDS), Told):
                if part is None and await request.is_disconnected():
                    raise RequestError(499, "the client is gone")
            return part
        finally:
            self.job.given_up.set()


async def _events(answer: _Answer, question: Question, key: str) -> AsyncIterator[str]:
    """Server-sent events: the role, pieces of text, how it ended with what Blink did, the counts if asked for."""
    name = question.model

    def event(content: Any) -> str:
        return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"

    try:
        yield event(chunk(name, key, {"role": "assistant", "content": ""}))
        while not isinstance(part := await answer.next(_LOOK_SECONDS), Told):
            if part is not None:
                yield event(chunk(name, key, {"content": part}))
        yield event(chunk(name, key, {}, finished=part.finished, blink=blink_field(part)))
        if question.include_usage:
            yield event(chunk(name, key, None, usage=usage(part)))
        yield "data: [DONE]\n\n"
    except RequestError as error:
        yield event(error.body())
    finally:
        answer.job.given_up.set()


async def _body(request: Request, most: int) -> bytes:
    """The body of a request, as long as it is not too long.

    Raises:
        RequestError: it is.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise RequestError(413, f"the body is longer than {most / 1e6:g} MB")
    return bytes(body)


def _check_key(request: Request, key: str | None) -> None:
    """Raise RequestError unless a request brings the API key, if one is asked for."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    if key is not None and not secrets.compare_digest(given, key.encode()):
        raise RequestError(401, "the API key is missing or wrong: send Authorization: Bearer KEY")
