"""The parts of the page that are written here: answers, the scan and mistakes."""

import html
import re
from dataclasses import replace

import pytest

from blink.analysis.explain.answers import Explainer, Explanation, Side
from blink.analysis.explain.page import page
from blink.bench import Sample
from blink.inference.policy import Event, Policy
from blink.inference.run import Run
from blink.integrations.demo.answering import Card, Progress
from blink.integrations.demo.cards import cards, mistake, scan
from blink.integrations.server.responses import Told
from blink.model.backbone import Backbone
from blink.model.prompts import template_of
from tests import models

HOSTILE = '</div><script>alert(1)</script> & "red"'


@pytest.fixture(scope="module")
def explained(tiny: Backbone) -> Explanation:
    """Three answers to a question that an unescaped page would run."""
    policy = Policy([3, 10], tau_exp=0, tau_drop=0)
    runs = {"without Blink": Run(), "Blink-interp": Run(policy), "Blink": Run(policy, "tiny")}
    sides = [Side(name, run, 2) for name, run in runs.items()]
    sample = Sample("1", "1", HOSTILE, "", "", lambda: models.picture(1, (96, 96)))
    return Explainer(tiny, template_of(tiny.processor), sides)(sample)


def test_answers_as_they_come() -> None:
    """Would catch an answer that runs, numbers of another column, and a card that never says that it is done."""
    told = Told(
        HOSTILE, "length", 159, (5, 6), (Event(3, 0.7, 2, "expand"), Event(9, 0.1, 0, "drop")), None, 0.256
    )
    narrow = told._replace(text="", finished="stop", events=(), note="too narrow")
    three = (Card("one", HOSTILE, told, 1_520_000_000), Card("two", "Ye"), Card("three", "", narrow))
    text = cards(Progress(three, None, HOSTILE))
    assert "<script" not in text
    first, second, third, right = text.split('<div class="blink-card')[2:]
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html.unescape(first)))
    assert "159 + 2 tokens · 1.52 GFLOP · 0.26 s · cut at 2 tokens" in plain
    assert re.findall(r'class="(\w+)">(\d+)', first) == [("expand", "3"), ("drop", "9")]
    assert second.startswith(" open")
    assert "Ye" in second
    assert "(nothing)" in third
    assert "answered without Blink: too narrow" in third
    assert "right answer" in right


def test_the_scan_is_the_page_of_an_explanation_of_three_answers(explained: Explanation) -> None:
    """Would catch a frame that its own content closes, and a third answer that the page leaves out."""
    timed = replace(
        explained,
        answers=tuple(
            one._replace(seconds=took) for one, took in zip(explained.answers, (0.5, 1.0, 0.75), strict=True)
        ),
    )
    text = scan(timed)
    assert text.count("<iframe") == 1
    assert "<script" not in text
    found = re.search(r'srcdoc="([^"]*)"', text)
    assert found is not None
    inside = html.unescape(found[1])
    assert inside == page(timed)
    assert inside.count('name="side"') == 3
    table = inside[inside.index('<table class="cost">') :]
    rows = [re.findall(r"<td>([^<]*)</td>", row) for row in table.split("<tr>")[2:]]
    assert rows[-1] == ["seconds", "0.50", "1.00", "0.75", "2.000", "1.500"]
    assert [row[0] for row in rows] == [
        "prompt tokens",
        "prompt tokens, summed over layers",
        "answer tokens",
        "FLOPs",
        "seconds",
    ]
    assert "<td>seconds" not in page(explained)  # nobody measured


def test_mistakes_are_one_line() -> None:
    """Would catch a message that runs or spreads, and one that stays when all is well."""
    assert mistake("") == ""
    said = mistake(f"a\n{HOSTILE}")
    assert "<script" not in said
    assert "a &lt;/div&gt;" in said
    assert said.strip().count("\n") == 0
