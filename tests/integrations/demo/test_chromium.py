"""The page in a browser: a visitor asks, moves the slider, changes a threshold, and makes mistakes."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from blink.integrations.demo.page import FIRST_QUESTION, FIRST_SCENE
from blink.integrations.demo.scenes import draw
from tests.integrations.demo.browser import BROWSER, visit
from tests.integrations.demo.shown import GRADIO_WARNS

pytest.importorskip("gradio", reason="gradio is not installed: make gradio")
pytest.importorskip("playwright", reason="playwright is not installed: make gradio")

pytestmark = [
    *GRADIO_WARNS,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"),
]

FITS = """() => {
    const frame = document.querySelector("iframe.blink-scan");
    const spare = frame.clientHeight - frame.contentDocument.body.scrollHeight;
    return spare >= 0 && spare <= 20;
}"""
"""Whether the scan's frame is as high as its content; it follows the content a moment later."""


def done(view: Any) -> Any:
    """Wait for the scan; the page inside the page."""
    view.wait_for_selector("iframe.blink-scan")
    return view.frame_locator("iframe.blink-scan")


def events(view: Any) -> list[str]:
    """What Blink did, as the last of the three cards says it."""
    spans = view.locator(".blink-card[data-side='2'] .cost span")
    return [text.replace("\xa0", " ") for text in spans.all_inner_texts()]


def test_a_visitor_asks_about_the_first_scene(url: str) -> None:
    """Would catch buttons that do nothing, answers of another question, and a slider that moves nothing."""
    scene = draw(FIRST_SCENE, "ordinary")
    first = scene.questions[FIRST_QUESTION]
    with visit(url) as view:
        assert view.input_value("#question textarea") == first.text
        assert view.locator("#examples button").count() >= len(scene.questions)
        view.click("#ask")
        inside = done(view)
        said = view.locator(".blink-card .said").all_inner_texts()
        assert len(said) == 4
        assert said[3] == first.answer
        assert said[0] != said[2] == first.answer
        assert inside.locator("label.answer .said").all_inner_texts() == said[:3]
        assert events(view) == ["10 expand"]
        inside.locator("body[data-layer='10']").wait_for()
        inside.locator("#layer").focus()
        view.keyboard.press("ArrowLeft")
        inside.locator("body[data-layer='9']").wait_for()
        assert "Not scanned" in inside.locator("#fact-sentence").inner_text()
        # as high as its content: no second scroll bar
        view.wait_for_function(FITS)
        second = scene.questions[1]
        view.locator("#examples button").filter(has_text=second.text.partition("\n")[0]).first.click()
        view.locator(".blink-card.plain .said").filter(has_text=second.answer).wait_for()
        assert view.input_value("#question textarea") == second.text


def test_controls_ask_again_in_place(url: str) -> None:
    """Would catch a control that changes nothing, or asks before anybody has asked."""
    with visit(url) as view:
        box = view.locator("#tau_exp input[type=number]")
        box.fill("1")
        box.blur()
        view.wait_for_timeout(500)
        assert view.locator(".blink-card").count() == 0
        view.click("#ask")
        done(view)
        assert events(view) in (["10 keep"], ["10 drop"])
        view.fill("#layers input, #layers textarea", "3-5")
        view.press("#layers input, #layers textarea", "Enter")
        view.locator(".blink-card[data-side='2'] .cost span").nth(2).wait_for()
        assert [event.split()[0] for event in events(view)] == ["3", "4", "5"]
        box.fill("0")
        box.blur()
        view.locator(".blink-card[data-side='2'] .expand").nth(2).wait_for()
        assert events(view) == ["3 expand", "4 expand", "5 expand"]


def test_an_address_holds_a_state(url: str) -> None:
    """Would catch a link that opens the page without what it names."""
    question = draw(7, "hard").questions[2]
    with visit(f"{url}/?scene=7&difficulty=hard&question={quote(question.text)}") as view:
        done(view)
        assert view.locator(".blink-card.plain .said").inner_text() == question.answer
        assert "scene 7 (hard)" in view.inner_text("#examples")


def test_mistakes_are_one_line_and_leave_the_page_usable(url: str, tmp_path: Path) -> None:
    """Would catch a dialogue with a traceback, a mistake that stays, and an answer to what was not asked."""
    Image.new("RGB", (1000, 600)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no picture")

    def said(view: Any, words: str) -> None:
        view.locator("#wrong .blink-mistake").filter(has_text=words).wait_for()

    with visit(url) as view:
        view.fill("#layers input, #layers textarea", "99")
        view.click("#ask")
        said(view, "layers 99: tiny has layers 0 to 15")
        view.fill("#layers input, #layers textarea", "10")
        view.fill("#question textarea", " ")
        view.click("#ask")
        said(view, "there is no question")
        view.fill("#question textarea", "Red?")
        for path, words in (
            (tmp_path / "large.png", "1,000 x 600 pixels; this page takes 0.5 million"),
            (tmp_path / "text.png", "not a picture of a format that Pillow knows"),
        ):
            view.locator("#picture button[aria-label='Remove Image']").first.click()
            view.set_input_files("#picture input[type=file]", path)
            view.locator("#picture img").wait_for(state="attached")  # it is there when the upload is
            view.click("#ask")
            said(view, words)
        view.click("#draw")
        view.wait_for_selector("#wrong .blink-mistake", state="detached")
        view.click("#ask")
        done(view)


def test_a_narrow_window_shows_all_of_it(url: str) -> None:
    """Would catch a page that has to be moved sideways on a telephone."""
    with visit(url, width=420) as view:
        view.click("#ask")
        done(view)
        wide = view.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= 420
