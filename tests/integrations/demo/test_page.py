"""The page as programs see it: Gradio's own client over HTTP."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from blink.integrations.demo.scenes import SPLIT, draw
from tests.integrations.demo.shown import GRADIO_WARNS

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed: make gradio")

pytestmark = list(GRADIO_WARNS)


@pytest.fixture
def client(url: str, tmp_path: Path) -> Any:
    """A visitor."""
    return gradio_client.Client(url, verbose=False, download_files=str(tmp_path))


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
    *_, said = client.predict("impossible", api_name="/draw")
    assert "difficulty=&#39;impossible&#39;" in said


def test_a_page_sends_what_browsers_need_and_nothing_leads_elsewhere(url: str) -> None:
    """Would catch a policy that is missing from some responses, fonts from elsewhere, and files of this machine that are served."""
    page = httpx.get(f"{url}/")
    theme = httpx.get(f"{url}/theme.css")
    for response in (page, theme):
        assert response.status_code == 200
        assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "fonts.googleapis" not in page.text + theme.text
    assert httpx.get(f"{url}/gradio_api/file=/etc/hostname").status_code in (403, 404)
    assert '"analytics_enabled":false' in httpx.get(f"{url}/config").text.replace(" ", "")


def test_files_that_are_too_large_are_refused(url: str, tmp_path: Path) -> None:
    """Would catch an upload without an end."""
    sent = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"\0" * 300_000)})
    assert sent.status_code == 413
