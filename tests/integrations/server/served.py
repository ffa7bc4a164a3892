"""A server with the tiny backbone in this process, real pictures of scenes, and the official client."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import openai
import uvicorn
from PIL import Image

from blink import Policy
from blink.evaluation.planning.checkpoint import Checkpoint
from blink.inference.run import Run
from blink.integrations.server.app import make_app
from blink.integrations.server.plan import Limits, Serving, listen
from blink.model.backbone import Backbone
from blink.model.prompts import template_of

LIMITS = Limits(queue=300, seconds=120, megabytes=1, megapixels=0.5, new_tokens=32)
POLICY = Policy([3, 10], tau_exp=0.3, tau_drop=0.25)
"""One that expands for some scenes and not for others."""


class Server(NamedTuple):
    """Where a server listens, and what it serves."""

    url: str
    serving: Serving

    def client(self, key: str = "none") -> openai.OpenAI:
        """The official client; it does not try again by itself."""
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0)


@contextmanager
def served(backbone: Backbone, *, key: str | None = None, limits: Limits = LIMITS) -> Iterator[Server]:
    """Serve a backbone under `POLICY` while the context is open."""
    path = str(backbone.name)
    checkpoint = Checkpoint(path, None, "float32", "cpu", None, "sdpa", None, None, None)
    template = template_of(backbone.processor)
    serving = Serving("small", "127.0.0.1", 0, key, checkpoint, template, Run(POLICY), 1.0, 8, limits, "")
    with listen(serving.host, serving.port) as taken:
        server = uvicorn.Server(uvicorn.Config(make_app(serving, backbone), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Server(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", serving)
        finally:
            server.should_exit = True
            thread.join()


def url_of(image: Image.Image) -> str:
    """A picture as clients send it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def message(text: str, *images: Image.Image) -> Any:
    """One user message with pictures."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url_of(image)}} for image in images
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
