"""lmms-eval's requests as questions: what a task says, and what it may not."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from blink.integrations.harness.requests import Generation, Question, read_generation, read_request
from blink.model.prompts import TEMPLATES
from blink.runs.values import UserError
from tests import models

VICUNA = TEMPLATES["vicuna_v1"]


def question(visuals: Any, text: Any = "Red?", *, others: bool = False, **keywords: Any) -> Question:
    """A request about a document, read."""
    args = (text, keywords, lambda doc: doc["visuals"], 5, "t", "test")
    documents = {"t": {"test": {5: {"visuals": visuals}}}}
    return read_request(
        SimpleNamespace(args=args), documents, VICUNA, None, stops=True, answers_others=others
    )


def test_a_request_about_one_picture() -> None:
    """Would catch a picture that is not RGB, one that is kept in memory for each request, and a prompt of another wording."""
    picture = models.picture(0)
    found = question([picture.convert("RGBA")], max_new_tokens=3)
    assert found.prompt == VICUNA.prompt("Red?")
    assert (found.pictures, found.generation) == (1, Generation(3, (), ()))
    assert found.load()[0].mode == "RGB"
    assert found.digest == question(picture).digest != question([models.picture(1)]).digest
    assert "task t, document 5" in found.where


def test_text_alone_and_several_pictures_are_refused_unless_asked_for() -> None:
    """Would catch requests without Blink among the answers of Blink, with no word about it."""
    for visuals in ([], None, [models.picture(0), models.picture(1)]):
        count = len(visuals or ())
        with pytest.raises(
            UserError, match=rf"task t, document 5: it is about {count} pictures.*other_requests=stock"
        ):
            question(visuals)
        found = question(visuals, others=True)
        assert found.pictures == len(found.load()) == count
        assert found.prompt.count("<image>") == count


@pytest.mark.parametrize(
    ("visuals", "text", "message"),
    [
        (["video.mp4"], "Red?", "comes with a file, a video or a sound perhaps"),
        ([{"array": 1}], "Red?", "comes with a dict"),
        ([models.picture(0)], " ", "blank"),
        ([models.picture(0)], lambda doc: "Red?", "the simple form of tasks"),
        ([models.picture(0)], "<image> or <image>?", "says 2 times where a picture stands"),
    ],
)
def test_what_cannot_be_asked_is_named(visuals: Any, text: Any, message: str) -> None:
    """Would catch a video that is dropped from its question, and an error that does not say which document it is about."""
    with pytest.raises(UserError, match=message) as caught:
        question(visuals, text, others=True)
    assert str(caught.value).startswith("task t, document 5: ")


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, Generation(1024, (), ())),
        ({"max_gen_toks": 5}, Generation(5, (), ())),
        ({"until": "\n\n", "max_new_tokens": 16}, Generation(16, ("\n\n",), ())),
        ({"until": ["a", "", "b"]}, Generation(1024, ("a", "b"), ())),
        ({"until": []}, Generation(1024, (), ())),
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, Generation(1024, (), ())),
        ({"temperature": 0, "do_sample": True, "top_p": None}, Generation(1024, (), ())),
        ({"temperature": 0.7, "do_sample": False}, Generation(1024, (), ())),
        ({"repetition_penalty": 1.0, "length_penalty": 1.0}, Generation(1024, (), ())),
        (
            {"temperature": 0.2, "top_p": 0.9},
            Generation(1024, (), (("do_sample", True), ("temperature", 0.2), ("top_p", 0.9))),
        ),
        ({"do_sample": True}, Generation(1024, (), (("do_sample", True), ("temperature", 1.0)))),
        ({"num_beams": 3}, Generation(1024, (), (("num_beams", 3),))),
        ({"repetition_penalty": 1.2}, Generation(1024, (), (("repetition_penalty", 1.2),))),
    ],
)
def test_keywords_as_tasks_give_them(keywords: dict[str, Any], expected: Generation) -> None:
    """Would catch a task of temperature 0 that is answered one by one, and one that samples answered by the largest logit."""
    assert read_generation(keywords) == expected
    assert read_generation(keywords).greedy == (not expected.settings)
    assert read_generation(keywords, stops=False).stops == ()


@pytest.mark.parametrize(
    "keywords",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"until": [1]},
        {"num_beams": -1},
        {"do_sample": True, "top_p": 2},
    ],
)
def test_values_out_of_range_are_refused(keywords: dict[str, Any]) -> None:
    """Would catch a value that fails deep in `generate`, after minutes."""
    with pytest.raises(UserError, match="expected"):
        read_generation(keywords)


def test_unknown_keywords_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Would catch a keyword without effect that nobody hears of, and a line for each of 9,000 requests."""
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            read_generation({"strange_to_blink": 1, "image_aspect_ratio": "original"})
    assert caplog.text.count("strange_to_blink has no effect") == 1
    assert "image_aspect_ratio" not in caplog.text


def test_keywords_stay_as_they_were() -> None:
    """Would catch the task's own settings emptied while they are read: requests share them."""
    given = {"until": ["x"], "max_new_tokens": 3}
    read_generation(given)
    assert given == {"until": ["x"], "max_new_tokens": 3}


def test_a_picture_alone_is_a_list_of_one() -> None:
    """Would catch a task whose pictures come without a list."""
    assert question(Image.new("L", (4, 4))).load()[0].mode == "RGB"
