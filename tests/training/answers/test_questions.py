"""Questions about training images: which are taken from which entries."""

import json
from pathlib import Path
from typing import Any

import pytest

from blink.scenes.draw import scene
from blink.scenes.formats import Exchange
from blink.scenes.view import view
from blink.training.answers.questions import MOST, SceneQuestions, questions_by_image, with_questions
from blink.training.images import DrawnImages, ImageSubset, local_images
from tests import models


def written(folder: Path, entries: list[dict[str, Any]], name: str = "asked.jsonl") -> Path:
    """A file of entries, beside two pictures."""
    for seed in range(2):
        models.picture(seed).save(folder / f"{seed}.png")
    file = folder / name
    lines = [json.dumps(entry) for entry in entries]
    file.write_text("\n".join(lines) if name.endswith("jsonl") else f"[{','.join(lines)}]")
    return file


def talk(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[turn % 2], "value": value} for turn, value in enumerate(values)]


@pytest.mark.parametrize("name", ["asked.jsonl", "llava_v1_5_mix665k.json"])
def test_questions_of_both_shapes(tmp_path: Path, name: str) -> None:
    """Would catch a later turn taken for the first, the image token left in, and a text-only entry that ends the run."""
    file = written(
        tmp_path,
        [
            {"image": "0.png", "question": "What is it?", "answer": " a cat "},
            {"image": "1.png", "conversations": talk("<image>\nWhich colour?", "red", "Why?", "so")},
            {"conversations": talk("Hello", "hi")},
            {"image": "0.png", "conversations": talk("How many?\n<image>", "2")},
        ],
        name,
    )
    images = local_images([file])
    found = questions_by_image(file, [tmp_path])
    assert [images.name(index) for index in range(2)] == list(found)
    assert list(found.values()) == [
        [Exchange("What is it?", "a cat"), Exchange("How many?", "2")],
        [Exchange("Which colour?", "red")],
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"question": "What?"}, r"entry 1: question='What\?', answer=None; expected two texts"),
        ({"question": " ", "answer": "x"}, "expected two texts"),
        ({"question": "a", "answer": ["x", "y"]}, "expected two texts"),
        ({"conversations": talk("a", "b")[::-1]}, r"begins with \['gpt', 'human'\]"),
        ({"conversations": talk("a")}, "expected two texts"),
    ],
)
def test_broken_entries_are_named(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    """Would catch an entry that is trained on without an answer, or a traceback in its place."""
    file = written(tmp_path, [{"image": "0.png", **entry}])
    with pytest.raises(ValueError, match=message):
        questions_by_image(file, [tmp_path])


def test_images_stand_as_often_as_their_questions_need() -> None:
    """Would catch questions that are dropped where an image has many, and images kept that have none."""
    pictures = DrawnImages([models.picture(seed) for seed in range(3)], "pictures")
    images = ImageSubset(pictures, (2, 0, 1), sizes=((60, 60),) * 3)
    many = [Exchange(f"{number}?", "x") for number in range(MOST + 1)]
    kept, asked = with_questions(images, {"drawn image 0": many, "drawn image 2": many[:1]})
    assert kept.indices == (2, 0, 0)
    assert [list(of_image) for of_image in asked] == [many[:1], many[:MOST], many[MOST:]]
    assert kept.sizes is not None
    assert len(kept.sizes) == 3
    other, _ = with_questions(images, {"drawn image 0": many, "drawn image 2": many[1:2]})
    assert other.indices == kept.indices
    assert other.fingerprint != kept.fingerprint  # a checkpoint's position would mean other questions
    with pytest.raises(ValueError, match="none of the images has a question"):
        with_questions(images, {})


def test_scenes_are_asked_about_themselves() -> None:
    """Would catch questions about another scene than the one shown, or of another split."""
    asked = SceneQuestions("token_sr", 5)
    for index in range(3):
        seen = view(scene("token_sr", 5 + index))
        shown = {f"{item.kind[0]} {item.kind[1]}" for item in seen.objects}
        exchanges = asked[index]
        assert 3 <= len(exchanges) <= 6
        colours = [one for one in exchanges if one.text.startswith("What color")]
        assert all(any(one.response in kind for kind in shown) for one in colours)
