"""The page as an application: it fetches nothing from elsewhere, and ends with the model's thread."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from blink.integrations.demo.answering import Demonstrator
from blink.integrations.demo.cards import LOOK
from blink.integrations.demo.page import make_page
from blink.integrations.demo.plan import Shown
from blink.model.backbone import Backbone

App = Callable[
    [MutableMapping[str, Any], Any, Callable[[MutableMapping[str, Any]], Awaitable[None]]], Awaitable[None]
]
"""An ASGI application."""

_FROM_HERE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
"""Browsers load nothing from other hosts, whatever Gradio's own page asks for."""

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "DejaVu Sans", "Arial", "sans-serif")
"""Of the reader's machine; those of Gradio's themes come from elsewhere."""


class _Left(logging.Filter):
    """Leaves out what uvicorn says of pages that are still open at the end: their connections are cut, as is meant."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be said."""
        cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
        return not cut and "timeout graceful shutdown exceeded" not in record.getMessage()


def serve(app: App, taken: socket.socket) -> None:
    """Serve on an address that was taken, until a signal ends it."""
    import uvicorn

    # an open page holds a connection for as long as it is open: it is not waited for
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    logging.getLogger("uvicorn.error").addFilter(_Left())
    uvicorn.Server(settings).run(sockets=[taken])


def make_app(shown: Shown, backbone: Backbone) -> App:
    """The application that shows a backbone.

    Raises:
        ValueError: policy and modules do not fit the backbone.
    """
    import gradio as gr

    demonstrator = Demonstrator(backbone, shown)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(demonstrator.close)

    app = gr.mount_gradio_app(
        FastAPI(title="Blink", lifespan=living, docs_url=None, redoc_url=None, openapi_url=None),
        make_page(shown, demonstrator),
        path="/",
        footer_links=[],
        show_error=False,
        max_file_size=int(shown.limits.megabytes * 1e6),
        theme=gr.themes.Default(primary_hue="orange", font=_FONTS, font_mono=("ui-monospace", "monospace")),
        css=LOOK,
        ssr_mode=False,
    )

    async def from_here(
        scope: MutableMapping[str, Any],
        receive: Any,
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"content-security-policy", _FROM_HERE.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, sent)

    return from_here
