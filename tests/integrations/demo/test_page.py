"""The page as programs see it: Gradio's own client over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from blink.integrations.demo.scenes import SPLIT, draw
from tests.integrations.demo.shown import GRADIO_WARNS

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed: make gradio")
pytest.importorskip("gradio", reason="gradio is not installed: make gradio")

pytestmark = list(GRADIO_WARNS)

PATIENCE = 120
"""Seconds that a response may take: on a busy machine the page needs longer than the five that httpx waits by itself."""


@pytest.fixture
def client(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A visitor, for one call or for calls with an upload between them.

    Where the last call's stream is about to end as the next one comes, gradio_client cancels the next: nobody would read it.
    """
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    return gradio_client.Client(
        url,
        verbose=False,
        download_files=str(tmp_path),
        analytics_enabled=False,
        httpx_kwargs={"timeout": PATIENCE},
    )


@pytest.fixture
def web(url: str) -> Iterator[httpx.Client]:
    """Plain requests."""
    with httpx.Client(base_url=url, timeout=PATIENCE) as plain:
        yield plain


def test_what_programs_can_call(client: Any) -> None:
    """Would catch an endpoint more or less, and a page that lists none."""
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/draw", "/ask"}


def test_drawn_scenes_come_with_their_questions(client: Any) -> None:
    """Would catch a picture that is compressed on its way, so that it is no longer the scene."""
    picture, question, examples, *_ = client.predict("hard", api_name="/draw")
    assert picture.endswith(".png")
    assert question == examples["samples"][0][0]
    number = int(examples["label"].split()[3])
    assert question == draw(number, "hard").questions[0].text
    assert SPLIT == "validation"


def test_a_scene_of_no_difficulty_is_refused(client: Any) -> None:
    """Would catch a page that draws whatever it is told."""
    *_, said = client.predict("impossible", api_name="/draw")
    assert "difficulty=&#39;impossible&#39;" in said


def test_programs_ask(client: Any) -> None:
    """Would catch answers that only browsers get, and that do not come as they grow."""
    picture, question, *_ = client.predict("easy", api_name="/draw")
    controls = ("3-4", 0.0, 0.0, 2, "attention", "append")
    job = client.submit(gradio_client.handle_file(picture), question, *controls, api_name="/ask")
    wrong, answers, scan = job.result(timeout=PATIENCE)
    assert wrong == ""
    assert answers.count('class="blink-card"') == 3
    assert answers.count("4&nbsp;expand") == 2
    assert "right answer" in answers
    assert "<iframe" in scan
    assert len(job.outputs()) > 4


def test_programs_without_a_picture_are_refused(client: Any) -> None:
    """Would catch a program that waits for an answer about nothing."""
    controls = ("3-4", 0.0, 0.0, 2, "attention", "append")
    refused, *_ = client.predict(None, "Red?", *controls, api_name="/ask")
    assert "there is no picture" in refused


@pytest.mark.parametrize("part", [0, 1], ids=["picture", "question"])
@pytest.mark.parametrize("named", ["elsewhere", "here", "streamed"])
def test_files_are_uploads_alone(web: httpx.Client, picture_file: Path, part: int, named: str) -> None:
    """Would catch a page that fetches what a stranger names, or reads this machine's own files to them."""
    path = "http://example.invalid/a.png" if named == "elsewhere" else str(picture_file)
    sent = {"path": path, "meta": {"_type": "gradio.FileData"}, "is_stream": named == "streamed"}
    data: list[Any] = [None, "Red?", "3", 0.5, 0.3, 2, "attention", "append"]
    data[part] = sent
    event = web.post("/gradio_api/call/ask", json={"data": data}).json()["event_id"]
    told = web.get(f"/gradio_api/call/ask/{event}").text
    assert "event: complete" not in told
    assert told.startswith("event: error")


def test_a_page_sends_what_browsers_need_and_nothing_leads_elsewhere(web: httpx.Client) -> None:
    """Would catch a policy that is missing from some responses, fonts from elsewhere, and files of this machine that are served."""
    page = web.get("/")
    theme = web.get("/theme.css")
    for response in (page, theme):
        assert response.status_code == 200
        assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "fonts.googleapis" not in page.text + theme.text
    assert web.get("/gradio_api/file=/etc/hostname").status_code in (403, 404)
    assert '"analytics_enabled":false' in web.get("/config").text.replace(" ", "")


def test_files_that_are_too_large_are_refused(web: httpx.Client) -> None:
    """Would catch an upload without an end."""
    sent = web.post("/gradio_api/upload", files={"files": ("a.png", b"\0" * 300_000)})
    assert sent.status_code == 413
