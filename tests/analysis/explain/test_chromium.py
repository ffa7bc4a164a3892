"""The pages in a browser, without a window: nothing fails, the slider moves what is shown, filters filter."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from blink.analysis.explain.answers import Explanation
from blink.analysis.explain.flips import find_flips, write_pages
from blink.analysis.explain.page import page, page_data

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"
)


def browse(path: Path, profile: Path, state: str = "", *options: str) -> str:
    """Open a page as a file, in a state given by its address, and return its document once scripts ran.

    Fails on whatever the page says on the browser's console: errors, and fetches that were refused.
    """
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",  # which needs rights that containers do not give
            "--disable-gpu",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=2000",
            "--enable-logging=stderr",
            *(options or ("--dump-dom",)),
            f"{path.as_uri()}{state}",
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said
    return done.stdout


def marked(document: str, kind: str = "region") -> list[dict[str, str]]:
    """Attributes of the rectangles of one kind, in the order of the document."""
    rectangles = re.findall(r"<rect ([^>]*)>", document)
    attributes = [dict(re.findall(r'([\w-]+)="([^"]*)"', text)) for text in rectangles]
    return [each for each in attributes if each.get("data-kind") == kind]


def test_page_shows_the_layer_that_its_slider_is_at(explained: Explanation, tmp_path: Path) -> None:
    """Would catch a script that fails, a slider that moves nothing, and a region of another layer or answer."""
    data = page_data(explained)
    text = page(explained)
    path = tmp_path / "page.html"
    path.write_text(text)
    for state, moved in (("#layer=2&side=1", ""), ("#layer=1&side=0", "ArrowRight")):
        if moved:  # as a user would, over what the address said
            path.write_text(
                text.replace(
                    "</body>",
                    '<script>find("layer").value = 3; find("layer").dispatchEvent(new Event("input"));'
                    'document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));'
                    'document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "b", bubbles: true}));</script></body>',
                )
            )
        document = browse(path, tmp_path / "profile", state)
        layer = data["answers"][1]["layers"][2]
        assert '<body data-layer="2" data-side="1">' in document
        assert layer["action"] is not None
        shown = marked(document)
        assert {(each["data-region"], each["data-action"]) for each in shown} == {
            (str(layer["acted"]), layer["action"])
        }
        left, top = 50 * (layer["acted"] % 2), 50 * (layer["acted"] // 2)
        assert all(
            float(each["x"]) == pytest.approx(left, abs=1) and float(each["y"]) == pytest.approx(top, abs=1)
            for each in shown
        )
        assert f'<dd id="fact-length">{layer["columns"]} tokens' in document
        lives = [
            (int(each["data-from"]), int(each["data-region"]))
            for each in marked(document, "life")
            if each["data-side"] == "1"
        ]
        born = [one["extension"] for one in data["answers"][1]["layers"] if one["extension"]]
        assert lives == [tuple(pair) for pair in dict.fromkeys(map(tuple, born))]
        assert len(marked(document, "cursor")) == 3


def test_picture_of_the_page(explained: Explanation, tmp_path: Path) -> None:
    """Would catch maps and charts that stay empty though the document holds them."""
    path = tmp_path / "page.html"
    path.write_text(page(explained))
    browse(path, tmp_path / "profile", "", "--window-size=1280,1600", f"--screenshot={tmp_path / 'page.png'}")
    shot = Image.open(tmp_path / "page.png").convert("RGB")
    assert shot.size == (1280, 1600)
    colours = {colour for _, colour in shot.getcolors(2**24) or []}
    assert {(184, 74, 0), (254, 232, 56)} <= colours  # an expansion's outline, and a map's most


def test_index_filters(differing_runs: list[Path], tmp_path: Path) -> None:
    """Would catch filters that hide everything or nothing, and a count that does not follow."""
    write_pages(find_flips(differing_runs, 50), tmp_path)
    index = tmp_path / "index.html"
    cards = re.findall(r'<li class="card" data-flip="(\w+)" data-actions="([^"]*)"', index.read_text())
    assert [flip for flip, _ in cards] == ["lost", "gained", "gained", "gained"]

    def fitting(flip: str, action: str) -> list[int]:
        return [
            number
            for number, (kind, actions) in enumerate(cards)
            if flip in ("all", kind) and (action == "any" or action in actions.split())
        ]

    document = browse(index, tmp_path / "profile", "#flip=gained&action=expand")
    hidden = re.findall(r'<li class="card"[^>]*?( hidden="")?>', document)
    visible = [number for number, mark in enumerate(hidden) if not mark]
    assert visible == fitting("gained", "expand")
    assert f"{len(visible)} of 4 shown" in document
    choices = [(flip, action) for flip in ("all", "gained", "lost") for action in ("any", "keep", "none")]
    index.write_text(
        index.read_text().replace("</body>", f"<script>{_CLICKS % json.dumps(choices)}</script></body>")
    )
    found = re.search(r'data-found="([^"]*)"', browse(index, tmp_path / "profile"))
    assert found is not None
    assert json.loads(found[1]) == [fitting(*choice) for choice in choices]


_CLICKS = """
document.body.dataset.found = JSON.stringify(%s.map(([flip, action]) => {
  document.querySelector(`input[value=${flip}]`).click();
  document.querySelector(`input[value=${action}]`).click();
  return cards.flatMap((card, number) => card.checkVisibility() ? [number] : []);
}));
"""
