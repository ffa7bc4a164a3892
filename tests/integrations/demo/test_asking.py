"""What visitors send, checked."""

from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from blink.integrations.demo.asking import Asking, Controls, Known, in_words, read
from blink.integrations.demo.plan import Shown
from blink.integrations.demo.scenes import draw
from blink.runs.values import UserError
from tests.integrations.demo.shown import shown_of

CONTROLS = Controls("3,9", 0.5, 0.3, 2, "attention", "append")


def asked(
    path: Path | None, shown: Shown, *, question: Any = "Red?", known: Known | None = None, **controls: Any
) -> Asking:
    """Read what the page sends."""
    sent = None if path is None else {"path": str(path), "orig_name": "a.png"}
    return read(sent, question, CONTROLS._replace(**controls), known or Known(), shown)


def test_controls_become_the_policy(picture_file: Path, shown: Shown) -> None:
    """Would catch a control that changes nothing, and settings of the command that the page forgets."""
    own = shown_of("scale_tau=false", "seed=3")
    policy = asked(picture_file, own, positions="region", patches=3).policy
    assert (tuple(policy.layers), policy.tau_exp, policy.tau_drop) == ((3, 9), 0.5, 0.3)
    assert (policy.patches, policy.positions, policy.scale_tau, policy.seed) == (3, "region", False, 3)
    begin = Controls.of(shown.policy)
    assert read({"path": str(picture_file)}, "Red?", begin, Known(), shown).policy == shown.policy
    assert [in_words(layers) for layers in ([10], (3, 4), range(3, 6), {9, 3})] == ["10", "3,4", "3-5", "3,9"]


def test_questions_of_a_scene_have_answers_and_other_pictures_have_not(tmp_path: Path, shown: Shown) -> None:
    """Would catch the right answer of a scene beside a picture of the visitor's own."""
    scene, path = draw(7, "easy"), tmp_path / "scene.png"
    scene.picture.save(path)
    drawn = scene.questions[0]
    found = asked(path, shown, question=drawn.text, known=Known.of(scene))
    assert (found.answer, found.box) == (drawn.answer, drawn.box)
    assert drawn.text in found.prompt
    draw(8, "easy").picture.save(path)
    other = asked(path, shown, question=drawn.text, known=Known.of(scene))
    assert (other.answer, other.box) == ("", None)


def test_pictures_stand_as_browsers_show_them(tmp_path: Path, shown: Shown) -> None:
    """Would catch a telephone's picture that is asked about on its side."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    assert asked(tmp_path / "turned.jpg", shown).image.size == (40, 60)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"question": "  "}, "there is no question"),
        ({"question": None}, "there is no question"),
        ({"question": "x" * 201}, "the question has 201 characters; this page takes 200"),
        ({"question": "<image> red?"}, "<image>"),
        ({"layers": "x"}, "layers 'x' cannot be read"),
        ({"layers": ""}, "layers '' cannot be read"),
        ({"layers": None}, "layers=None"),
        ({"layers": "9-16"}, "layers 16: tiny has layers 0 to 15"),
        ({"tau_exp": 2}, "tau_exp=2"),
        ({"tau_exp": None}, "tau_exp=None"),
        ({"tau_drop": "a"}, "tau_drop='a'"),
        ({"patches": 1}, "patches=1"),
        ({"saliency": "none"}, "saliency='none'"),
        ({"positions": []}, "positions=[]"),
    ],
)
def test_mistakes_are_said(changes: dict[str, Any], words: str, picture_file: Path, shown: Shown) -> None:
    """Would catch a value that programs may send and that ends in a traceback."""
    with pytest.raises(UserError) as refused:
        asked(picture_file, shown, **changes)
    assert words in str(refused.value)


def test_pictures_that_cannot_be_read_are_said(tmp_path: Path, shown: Shown) -> None:
    """Would catch a picture that is decoded before it is known to be too large."""
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (1000, 600)).save(tmp_path / "large.png")
    for path, words in (
        (None, "there is no picture"),
        (tmp_path / "text.png", "the picture: not a picture of a format that Pillow knows"),
        (tmp_path / "gone.png", "the picture: there is no such file"),
        (tmp_path / "large.png", "1,000 x 600 pixels; this page takes 0.5 million"),
    ):
        with pytest.raises(UserError, match=words):
            asked(path, shown)
    others: tuple[Any, ...] = ("a.png", {"path": 3}, {}, [])
    for sent in others:
        with pytest.raises(UserError, match="there is no picture"):
            read(sent, "Red?", CONTROLS, Known(), shown)


def test_layers_without_modules_are_said(picture_file: Path, shown: Shown) -> None:
    """Would catch a layer for which TokenSR is asked and not there."""
    with pytest.raises(UserError, match="layers 9 have no TokenSR module; there are some for 0-4"):
        asked(picture_file, shown._replace(trained=(0, 1, 2, 3, 4)))
