"""The page with the tiny backbone, in this process.

Files of the room that are tested where they are used:

    app.py       test_page.py, test_chromium.py, test_demo.py
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from blink.integrations.demo.plan import Limits, Shown
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from tests.integrations.demo.shown import shown_of


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    """The backbone that ships with the project."""
    return load_backbone("tiny", device="cpu")


@pytest.fixture(scope="session")
def shown() -> Shown:
    """The page's settings by default, with limits that a test can reach."""
    limits = Limits(queue=32, seconds=120, megabytes=0.2, megapixels=0.5, characters=200)
    return shown_of()._replace(limits=limits)


@pytest.fixture(scope="session")
def url(tiny: Backbone, shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is."""
    pytest.importorskip("gradio", reason="gradio is not installed: make gradio")
    from blink.integrations.demo.app import make_app
    from blink.integrations.server.plan import listen, url_of

    async def made() -> Any:
        """Inside a loop: without one Gradio makes several, and leaves them open."""
        return make_app(shown, tiny)

    with pytest.MonkeyPatch.context() as patch, listen("127.0.0.1", 0) as taken:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        server = uvicorn.Server(
            uvicorn.Config(asyncio.run(made()), log_level="critical", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield url_of(taken)
        server.should_exit = True
        thread.join(120)
    assert not thread.is_alive()


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    """A picture of nobody's scene."""
    from tests import models

    path = tmp_path / "mine.png"
    models.picture(3, (90, 70)).save(path)
    return path
