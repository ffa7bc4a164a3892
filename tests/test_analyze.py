"""The command as a user gives it: every figure on the tiny backbone and a few scenes, and its refusals."""

import csv
import importlib
import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blink.analysis.figures.plan import BACKBONE_FIGURES, RUN_FIGURES
from blink.analyze import main
from tests import models
from tests.analysis.figures.conftest import run

FEW = ("scenes.images=2", "samples=3")

SMALL_FIGURES: dict[str, tuple[str, ...]] = {
    "attention_maps": ("figure=attention_maps", *FEW, "figure.cases=1"),
    "attention_ratio": ("figure=attention_ratio", *FEW, "batch_size=2"),
    "redistribution": ("figure=redistribution", *FEW, "figure.cases=1", "batch_size=2"),
    "tokensr": ("figure=tokensr", *FEW, "figure.pictures=2", "figure.cases=1"),
}
"""Each figure of the tiny backbone, about three questions."""


pytestmark = pytest.mark.usefixtures("in_empty_folder")


def command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    """`python -m blink.analyze` with these overrides, in this process; returns the newest run's folder."""
    monkeypatch.setattr(sys, "argv", ["blink.analyze", *overrides])
    main()
    return max(Path("outputs/analyze").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of one of SMALL_FIGURES, drawn by its command."""
    folders: dict[str, Path] = {}

    def found(name: str) -> Path:
        if name not in folders:
            with pytest.MonkeyPatch.context() as patched:
                patched.chdir(tmp_path_factory.mktemp(name))
                folders[name] = command(patched, *SMALL_FIGURES[name]).resolve()
        return folders[name]

    return found


def test_every_figure_has_a_config() -> None:
    """Would catch a figure that cannot be asked for."""
    from blink.runs.config.groups import CONF_DIR

    assert {path.stem for path in (CONF_DIR / "figure").glob("*.yaml")} == {*BACKBONE_FIGURES, *RUN_FIGURES}


@pytest.mark.parametrize(
    ("name", "pictures", "records"),
    [
        ("attention_maps", ["attention_maps"], 6),
        ("attention_ratio", ["attention_ratio"], 16),
        ("redistribution", ["redistribution", "redistribution_cases"], 3 * 10),
        ("tokensr", ["tokensr", "tokensr_features"], 16),
    ],
)
def test_figures_of_the_tiny_backbone(
    name: str, pictures: list[str], records: int, drawn: Callable[[str], Path]
) -> None:
    """Would catch a figure that does not come out of its command, and defaults of layers that tiny lacks."""
    folder = drawn(name)
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "config.yaml",
        "inputs.json",
        "provenance.json",
        f"{name}.csv",
        f"{name}.json",
        *(f"{picture}.{ending}" for picture in pictures for ending in ("png", "pdf")),
    }
    with (folder / f"{name}.csv").open() as file:
        assert len(list(csv.DictReader(file))) == records


def test_one_picture_and_a_second_time(
    monkeypatch: pytest.MonkeyPatch, llava_next_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch image= and box= that do not reach the figure, LLaVA-NeXT left out, work done twice, and another picture of the name
    shown as it was."""
    Image.new("RGB", (90, 60), "blue").save("dog.png")
    asked = (
        "figure=attention_maps",
        "image=dog.png",
        "question='What colour is it?'",
        "box=[60,0,80,20]",
        f"model.path={llava_next_folder}",
    )
    folder = command(monkeypatch, *asked)
    table = json.loads((folder / "attention_maps.json").read_text())
    assert {record["right_region"] for record in table["table"]} == {1}
    assert table["cases"][0]["question"] == "What colour is it?"
    assert table["provenance"]["inputs"].keys() >= {"samples", "backbone"}
    before = (folder / "attention_maps.png").stat().st_mtime_ns
    command(monkeypatch, *asked)
    assert (folder / "attention_maps.png").stat().st_mtime_ns == before
    Image.new("RGB", (90, 60), "red").save("dog.png")
    command(monkeypatch, *asked)
    changed = (folder / "attention_maps.png").stat().st_mtime_ns
    assert changed != before
    (folder / "attention_maps.pdf").unlink()
    command(monkeypatch, *asked)
    assert (folder / "attention_maps.png").stat().st_mtime_ns != changed
    assert "attention_maps.pdf" in capsys.readouterr().out


def test_folder_of_pictures(monkeypatch: pytest.MonkeyPatch, llava_folder: Path) -> None:
    """Would catch a file of questions that only works on the tiny backbone, or boxes that are lost."""
    Path("pictures").mkdir()
    Image.new("RGB", (60, 60), "blue").save("pictures/a.png")
    rows = [{"image": "a.png", "question": f"Is it {word}?", "box": [0, 0, 9, 9]} for word in ("red", "blue")]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = command(
        monkeypatch,
        "figure=redistribution",
        "figure.refine=false",
        "questions=mine.jsonl",
        "pictures=pictures",
        f"model.path={llava_folder}",
    )
    with (folder / "redistribution.csv").open() as file:
        records = list(csv.DictReader(file))
    assert {record["samples_with_box"] for record in records} == {"2"}
    assert {record["layer"] for record in records} == {"1", "2", "3"}  # 12 of 32 is 1 of 4


def test_figure_of_runs(monkeypatch: pytest.MonkeyPatch, in_empty_folder: Path) -> None:
    """Would catch a figure of runs that needs a backbone, and one that is not drawn anew once a run has changed."""
    (in_empty_folder / "runs").mkdir()
    folders = [run(in_empty_folder / "runs", [layer]) for layer in (2, 3)]
    asked = ("figure=layer_range", f"figure.runs=[{','.join(map(str, folders))}]")
    folder = command(monkeypatch, *asked)
    before = (folder / "layer_range.csv").read_text()
    scores = json.loads((folders[0] / "scores.json").read_text())
    scores["metrics"]["f1"] = 12.5
    (folders[0] / "scores.json").write_text(json.dumps(scores))
    command(monkeypatch, *asked)
    assert "12.5" in (folder / "layer_range.csv").read_text()
    assert "12.5" not in before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("figure.layers=16",), "figure.layers=16: this backbone has decoder layers 0 to 15"),
        (("figure.singles=-1",), "figure.singles=-1: expected a whole number of at least 0"),
        (("patches=13",), "patches=13 does not fit the 12 x 12 grid"),
        (("positions=beside",), "positions='beside': expected one of append, region"),
        (("samples=0",), "samples=0: expected a whole number"),
        (
            ("bench.max_new_tokens=99999999",),
            "bench.max_new_tokens=99999999: the backbone's context has 2,048",
        ),
        (("bench.max_new_tokens=a",), "bench.max_new_tokens='a': expected a whole number"),
        (("figure=layer_range", "figure.runs=x", "samples=a"), "samples='a': expected a whole number"),
        (("figure=layer_range", "figure.runs=x", "model.dtype=a"), "model.dtype='a': expected one of"),
        (("data=hub", "data.id=nobody/nothing"), "data.id=nobody/nothing .split test. cannot be loaded"),
        (("image=nowhere.png", "question=What?"), "image=nowhere.png is not a file"),
        (("question=What?",), "question= and box= go with image="),
        (("image=a", "questions=b"), "image= and questions= are both given"),
        (
            ("image=a", "question=b", "data.root=c"),
            "data.root is where a benchmark lies, which is not read beside",
        ),
        (("image=a", "question=b", "data.exif=turn"), "data.exif='turn': expected one of ignore, apply"),
        (("data.exif=apply",), "data.exif and data.allow_outside are for files in data.root"),
        (("questions=nowhere.jsonl",), "questions=nowhere.jsonl is not a file"),
        (("figure=attention_maps", "figure.ids=[x]", *FEW), r"figure.ids=\['x'\]: not among the 3 questions"),
        (("figure=redistribution", "figure.show=2"), r"figure.show=\[2\]: the extension is made at layer 6"),
        (("figure=redistribution", "figure.layer=4-5"), "figure.layer='4-5': expected one layer"),
        (("figure=redistribution", "figure.refine=1"), "figure.refine=1: expected true or false"),
        (("figure=tokensr", "figure.temperature=0"), "figure.temperature=0: expected a number above 0"),
        (("figure=tokensr", "token_sr=nowhere"), "token_sr='nowhere' is neither a folder nor a hub id"),
        (("figure=layer_range", "figure.runs=nowhere"), "nowhere is neither a finished run"),
        (("figure=layer_range",), "figure.runs must be given"),
        (("questions=marked.jsonl",), "question 1 holds '<image>', which stands for a picture"),
        (("+figure.colour=red",), "unknown key 'figure.colour'"),
    ],
)
def test_mistakes_are_one_line(
    overrides: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, in_empty_folder: Path
) -> None:
    """Would catch a mistake that is found after the backbone was loaded, or as a traceback."""
    models.picture(0).save("a.png")
    Path("marked.jsonl").write_text(json.dumps({"image": "a.png", "question": "Is <image> red?"}) + "\n")
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        command(monkeypatch, *overrides)
    assert not (in_empty_folder / "outputs").exists()


@pytest.mark.parametrize(
    ("figure", "target", "before", "after"),
    [
        ("attention_ratio", "blink.analysis.probe.probe", 1, 1),
        ("redistribution", "blink.analysis.probe.probe", 3, 3),
        ("tokensr", "blink.analysis.figures.tokensr.features", 1, 2),
    ],
)
@pytest.mark.slow
def test_a_figure_goes_on_where_it_was_ended(
    figure: str,
    target: str,
    before: int,
    after: int,
    drawn: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch passes that a signal throws away, ones that are done twice, and other numbers for a figure that was ended.

    Three questions at two a batch are two batches, and under three methods six; two pictures are compared, and one of them is drawn.
    """
    settings, whole = SMALL_FIGURES[figure], drawn(figure)
    module, _, name = target.rpartition(".")
    stock, calls = getattr(importlib.import_module(module), name), [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == before:
            signal.raise_signal(signal.SIGTERM)
        return stock(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(target, counted)
        with pytest.raises(SystemExit) as ended:
            command(patched, *settings)
        assert ended.value.code == 143
        said = capsys.readouterr().err
        assert re.search(
            r"stopped by SIGTERM: \d of \d (questions are looked at|pictures are compared)", said
        )
        assert calls == [before]
        assert not list(Path("outputs").rglob("*.png"))
        folder = command(patched, *settings)
    assert calls[0] == before + after
    assert not (folder / "parts").exists()
    tables = list(folder.glob("*.csv"))
    assert tables
    for path in tables:
        assert path.read_bytes() == (whole / path.name).read_bytes()


@pytest.mark.parametrize("damage", [b"", b"\0\0", b"null", b'{"inputs": 3}', None])
def test_a_damaged_figure_is_drawn_anew(
    damage: bytes | None, monkeypatch: pytest.MonkeyPatch, in_empty_folder: Path
) -> None:
    """Would catch an empty picture that is given out as the figure, and a traceback for a damaged record of it."""
    (in_empty_folder / "runs").mkdir()
    folders = [run(in_empty_folder / "runs", [layer]) for layer in (2, 3)]
    asked = ("figure=layer_range", f"figure.runs=[{','.join(map(str, folders))}]")
    folder = command(monkeypatch, *asked)
    picture, record = folder / "layer_range.png", folder / "inputs.json"
    whole = picture.read_bytes()
    if damage is None:
        picture.write_bytes(b"")
    else:
        record.write_bytes(damage)
    command(monkeypatch, *asked)
    assert picture.read_bytes() == whole
    assert json.loads(record.read_text())["files"].keys() >= {"layer_range.png", "layer_range.csv"}


def test_limit_takes_the_first_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch limit= that is unknown here, or questions drawn from all of the benchmark."""
    folder = command(monkeypatch, "figure=attention_ratio", "scenes.images=2", "limit=4", "samples=3")
    looked_at = json.loads((folder / "attention_ratio.json").read_text())["samples"]
    assert len(looked_at) == 3
    everything = command(monkeypatch, "figure=attention_ratio", "scenes.images=2", "samples=100", "limit=4")
    first = json.loads((everything / "attention_ratio.json").read_text())["samples"]
    assert len(first) == 4
    assert {sample["id"] for sample in looked_at} < {sample["id"] for sample in first}
    with pytest.raises(SystemExit, match="limit=0: expected a whole number of at least 1"):
        command(monkeypatch, "limit=0")
