"""The page in a browser without a window, driven as a visitor would."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_RULES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@contextmanager
def visit(address: str, width: int = 1280, height: int = 1000) -> Iterator[Any]:
    """Open an address; what fails on the page fails the test, and so does a request for another host."""
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []

    def note(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
            wrong.append(request.url)

    with sync_playwright() as play:
        # the sandbox needs rights that containers do not give
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", _RULES])
        view = browser.new_page(viewport={"width": width, "height": height})
        view.set_default_timeout(120_000)
        view.on("request", note)
        view.on("pageerror", lambda error: wrong.append(str(error)))
        view.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        view.goto(address)
        view.wait_for_selector("#examples button")
        view.wait_for_selector("#picture img")
        yield view
        browser.close()
    assert not wrong
