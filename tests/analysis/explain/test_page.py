"""The page says what the explanation says, runs nothing that came from outside, and asks the network for nothing."""

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from blink.analysis.explain.answers import Explanation
from blink.analysis.explain.page import flops_in_words, page, page_data
from blink.analysis.explain.screen import print_explanation
from blink.inference.boxes import regions_in_words
from blink.inference.policy import Policy
from tests.analysis.explain.conftest import HOSTILE, POLICY


class Reader(HTMLParser):
    """Collects the text inside each kind of element, the scripts, and every address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.scripts += tag == "script"
        if tag not in ("meta", "img", "input", "br", "rect"):
            self.inside.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[self.inside[-1]][-1] += data


def test_everything_from_outside_is_escaped(explained: Explanation) -> None:
    """Would catch a question that ends the script it is embedded in, or becomes markup or a template of ours."""
    text = page(explained, warnings=["<i>odd</i>"])
    read = Reader(text)
    assert read.scripts == 2
    assert "\n".join((*read.texts["h1"], read.texts["p"][0])) == HOSTILE
    assert json.loads(read.texts["script"][0])["question"] == HOSTILE
    assert "<i>odd" not in text


def test_page_needs_no_network(explained: Explanation) -> None:
    """Would catch a font, a library or a picture that is fetched."""
    text = page(explained)
    assert all(address.startswith("data:image/") for address in Reader(text).addresses)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "@import" not in text


def test_embedded_numbers_are_the_explanation(explained: Explanation) -> None:
    """Would catch numbers of the other answer, of another layer, or rounded away."""
    data = json.loads(Reader(page(explained, correct=(True, None))).texts["script"][0])
    assert data == json.loads(json.dumps(page_data(explained, (True, None))))
    assert [answer["correct"] for answer in data["answers"]] == [True, None]
    vanilla, blink = data["answers"]
    assert all(one["action"] is None for one in vanilla["layers"])
    assert vanilla["thresholds"] is None
    assert blink["thresholds"] == [0.3, 0.27]
    for answer, told in zip(explained.answers, data["answers"], strict=True):
        assert (answer.text, len(answer.ids), answer.flops) == (told["text"], told["tokens"], told["flops"])
        assert sum(one["columns"] for one in told["layers"]) == told["token_layers"]
        for one, layer in zip(answer.layers, told["layers"], strict=True):
            assert layer["ratio"] == pytest.approx(one.ratio, abs=1e-6)
            assert layer["saliency"] == pytest.approx(one.saliency_V.tolist(), rel=0.01)
            assert sum(layer["shares"].values()) == pytest.approx(1, abs=1e-4)
    acted = [(one["layer"], one["action"], one["acted"]) for one in blink["layers"] if one["action"]]
    assert acted == [(event.layer, event.action, event.region) for event in explained.answers[1].events]
    assert {action for _, action, _ in acted} >= {"expand"}


def test_first_tokens_end_at_their_own_probability(explained: Explanation) -> None:
    """Would catch a curve that does not end at what the model said: greedy answers begin with the likeliest token."""
    data = page_data(explained)
    for answer, told in zip(explained.answers, data["answers"], strict=True):
        last = told["layers"][-1]
        assert explained.words[answer.ids[0]] == last["top"]["text"]
        assert last["words"][data["watched"].index(last["top"]["text"])] == last["top"]["probability"]


def test_picture_and_box_are_as_the_backbone_sees_them(explained: Explanation) -> None:
    """Would catch the uncropped picture under a grid that covers its centre, and a box beside its object."""
    data = page_data(explained)
    [address] = Reader(page(explained)).addresses
    kind, _, encoded = address.partition(",")
    assert kind == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert shown.size == (data["picture"]["width"], data["picture"]["height"]) == explained.picture.size
    assert explained.box is not None
    left, top, width, height = data["box"]
    side_x, side_y = explained.picture.size
    assert (left * side_x, top * side_y) == pytest.approx(explained.box[:2], abs=0.01)
    assert (width * side_x, height * side_y) == pytest.approx((30, 30), abs=0.01)
    assert [answer["right"] for answer in data["answers"]] == [1, 1]


def test_cost_follows_the_extension(explain: Callable[..., Explanation]) -> None:
    """Would catch costs of one answer in the column of the other, or a prompt counted without its extension."""
    always = explain(Policy([1], tau_exp=0.0, tau_drop=0.0))
    vanilla, blink = always.answers
    layers = len(blink.layers)
    assert vanilla.token_layers == layers * vanilla.prompt_tokens
    assert blink.token_layers == vanilla.token_layers + (layers - 1) * 36
    assert (blink.flops or 0) > (vanilla.flops or 0) > 0
    text = page(always)
    assert f"<td>{vanilla.token_layers:,}</td><td>{blink.token_layers:,}</td>" in text
    assert flops_in_words(blink.flops) in text


def test_terminal_shows_the_same_events(explained: Explanation) -> None:
    """Would catch a table that takes brackets of a question for colours, or shows other events than the page."""
    console = Console(record=True, width=200, markup=False, file=io.StringIO())
    print_explanation(explained, console)
    text = console.export_text()
    assert HOSTILE.splitlines()[0] in text
    rows = [line for line in text.splitlines() if re.match(r"│ +\d", line)]
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    events, layers = explained.answers[1].events, explained.answers[1].layers
    assert [row[:5] for row in cells] == [
        [str(e.layer), f"{e.ratio:.3f}", str(e.region), e.action, str(layers[e.layer].columns)]
        for e in events
    ]
    assert len(events) == len(POLICY.layers)
    assert regions_in_words(POLICY.patches) in " ".join(text.split())
    assert text.count("regions: ") == 1
    assert page(explained).count(regions_in_words(POLICY.patches).capitalize()) >= 2


@pytest.mark.parametrize(
    ("flops", "words"),
    [(12, "12 FLOP"), (1.234e6, "1.23 MFLOP"), (2.5e12, "2.5 TFLOP"), (4e15, "4 PFLOP")],
)
def test_flops_in_words(flops: float, words: str) -> None:
    """Would catch a prefix that is off by a thousand."""
    assert flops_in_words(flops) == words
