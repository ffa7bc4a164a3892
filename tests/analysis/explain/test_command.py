"""The command as a user gives it: one answer, flips, and its refusals."""

import csv
import json
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from blink.analysis.explain.answers import Explainer, Explanation
from blink.bench import Sample
from blink.explain import main
from blink.runs.folder import read_config
from blink.runs.inputs.preset_file import write_preset
from tests import models
from tests.analysis.explain.conftest import OTHER_ANSWER
from tests.runs.inputs.test_pictures import sideways

ONE = ("image=dog.png", "question=What?")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Outputs go below the directory in which the command is given."""
    monkeypatch.chdir(tmp_path)
    models.picture(0).save("dog.png")
    Path("empty.png").touch()
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """`python -m blink.explain` with these overrides, in this process."""
    monkeypatch.setattr(sys, "argv", ["blink.explain", *overrides])
    main()


def test_one_answer(
    llava_next_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch settings that do not reach the answer, and LLaVA-NeXT left out."""
    asked = (
        "image=dog.png",
        "question='Is it <b>wet</b>?'",
        "box=[0,0,20,20]",
        "method=interp",
        "layer=1-2",
        "tau_exp=0.1",
        "patches=3",
        "scale_tau=false",
        "max_new_tokens=2",
        f"model.path={llava_next_folder}",
    )
    command(monkeypatch, *asked)
    [folder] = Path("outputs/explain").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "explain.html",
        "explain.json",
        "provenance.json",
    }
    data = json.loads((folder / "explain.json").read_text())
    assert data["provenance"]["inputs"].keys() >= {"picture", "backbone"}
    assert data["question"] == "Is it <b>wet</b>?"
    vanilla, blink = data["answers"]
    assert (vanilla["name"], blink["name"]) == ("without Blink", "with Blink-interp")
    assert (blink["patches"], blink["thresholds"], blink["right"]) == (3, [0.1, 0.4], 0)
    assert [(one["layer"], one["action"]) for one in blink["layers"] if one["action"]] == [
        (1, "expand"),
        (2, "expand"),
    ]
    assert all(one["shares"]["tiles"] > 0 for one in blink["layers"])
    said = capsys.readouterr().out
    assert "Is it <b>wet</b>?" in said
    assert str(folder / "explain.html") in said


def test_encoded_region_of_a_box(llava_next_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a region that is not the box's, crops that the recorded pass lacks, and a name of another method."""
    usual = ("image=dog.png", "question=What?", "layer=1-2", "tau_exp=0", "patches=3", "max_new_tokens=2")
    asked = (*usual, "positions=region", f"model.path={llava_next_folder}")
    shown: dict[str, Any] = {}
    for method in ("encode", "interp"):
        command(monkeypatch, *asked, f"method={method}", "selector=box", "box=[45,0,60,15]")
        [folder] = Path("outputs/explain").glob(f"*method-{method}*")
        shown[method] = json.loads((folder / "explain.json").read_text())["answers"][1]
        assert shown[method]["name"] == f"with Blink-{method}"
        assert [layer["acted"] for layer in shown[method]["layers"] if layer["action"]] == [2, 2]
        assert "selector=box" in (folder / "explain.html").read_text()
        assert ("encoded anew" in (folder / "explain.html").read_text()) == (method == "encode")
    assert shown["encode"]["layers"] != shown["interp"]["layers"]
    command(monkeypatch, *asked, "method=encode")


def test_box_outside_what_is_seen(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a box that is dropped in silence: the page shows no right region, and selector=box expands nothing."""
    models.picture(0, (120, 40)).save("wide.png")
    usual = ("image=wide.png", "question=What?", "method=interp", "layer=1", "tau_exp=0", "max_new_tokens=1")
    asked = (*usual, f"model.path={cropping_folder(llava_folder)}", "model.pad=false")
    said = "lies outside what the backbone sees of the picture, which is [40, 0, 80, 40] (left, top, right, bottom): "
    command(monkeypatch, *asked, "box=[0,5,9,20]")
    assert f"box=[0, 5, 9, 20] {said}no region counts as the right one" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=f"{re.escape(said)}selector=box would expand nothing"):
        command(monkeypatch, *asked, "box=[0,5,9,20]", "selector=box")
    command(monkeypatch, *asked, "box=[0,5,50,20]", "selector=box")
    assert "lies outside" not in capsys.readouterr().out


def cropping_folder(folder: Path) -> Path:
    """A copy of a checkpoint whose processor cuts out the centre of pictures."""
    copy = Path("cropping")
    shutil.copytree(folder, copy)
    settings = copy / "processor_config.json"
    content = json.loads(settings.read_text())
    images = content["image_processor"]
    images |= {"do_center_crop": True, "do_resize": True, "size": {"shortest_edge": images["size"]["height"]}}
    settings.write_text(json.dumps(content))
    return copy


def test_flips_of_two_runs(
    differing_runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch gained and lost the wrong way round, answers other than the runs', and a limit that goes unsaid."""
    runs = f"runs=[{','.join(map(str, differing_runs))}]"
    command(monkeypatch, "explain=flips", runs, "limit=2")
    [folder] = Path("outputs/explain").iterdir()
    said = capsys.readouterr().out
    assert "interp against vanilla on 12 questions: 3 gained, 1 lost" in said
    assert "explaining 2 of the 4 flips" in said
    with (folder / "flips.csv").open() as file:
        rows = list(csv.DictReader(file))
    asked = [json.loads(line) for line in (differing_runs[1] / "predictions.jsonl").read_text().splitlines()]
    assert [(row["id"], row["flip"]) for row in rows] == [
        (asked[0]["id"], "lost"),
        (asked[4]["id"], "gained"),
    ]
    assert [row["interp says"] for row in rows] == [asked[0]["response"], asked[4]["response"]]
    assert rows[0]["interp did"] == " ".join(f"{e['layer']}:{e['action']}" for e in asked[0]["events"])
    pages = sorted((folder / "pages").iterdir())
    assert [f"pages/{path.name}" for path in pages] == [row["page"] for row in rows]
    first, second = (path.read_text() for path in pages)
    assert 'href="0002.html"' in first
    assert (first.count("✓ right"), first.count("✗ wrong"), first.count('<p class="warning">interp')) == (
        1,
        1,
        0,
    )
    assert f"interp answered “{OTHER_ANSWER}” in its run" in second
    assert (second.count("✓ right"), second.count("✗ wrong")) == (
        0,
        1,
    )  # what is shown is not what was marked
    assert "2 of the 4 flips are explained here" in (folder / "index.html").read_text()


def test_runs_that_cannot_be_explained(
    differing_runs: list[Path], working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch answers explained by other weights than gave them, and an empty index."""
    changed = working_directory / "changed"
    shutil.copytree(differing_runs[1], changed)
    inputs = json.loads((changed / "inputs.json").read_text())
    (changed / "inputs.json").write_text(json.dumps(inputs | {"backbone": "another"}))
    with pytest.raises(SystemExit, match=r"error: .*begun with another backbone"):
        command(monkeypatch, "explain=flips", f"runs=[{differing_runs[0]},{changed}]")
    with pytest.raises(SystemExit, match=r"error: .*there is no flip to explain"):
        command(monkeypatch, "explain=flips", f"runs=[{differing_runs[0]},{differing_runs[0]}]")
    (changed / "config.yaml").unlink()
    with pytest.raises(SystemExit, match=r"error: .*holds no config\.yaml"):
        command(monkeypatch, "explain=flips", f"runs=[{differing_runs[0]},{changed}]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "image=None: give image=FILE and question="),
        (("image=dog.png",), "question=None: give image=FILE and question="),
        (("image=nowhere.png", "question=What?"), "image=nowhere.png is not a file"),
        (("image=dog.png", "question=' '"), "question is ' '; expected a text"),
        (("image=dog.png", "question='<image> what?'"), "question dog holds '<image>'"),
        ((*ONE, "box=[5,5,1,1]"), r"box=\[5, 5, 1, 1\]: expected \[left, top"),
        ((*ONE, "method=vanilla"), "method=vanilla: it is what the answer is held against"),
        ((*ONE, "layer=16"), r"the policy scans layers \[16\]; this model has decoder layers 0 to 15"),
        ((*ONE, "patches=13"), "patches=13 does not fit the 12 x 12 grid"),
        ((*ONE, "method=encode", "selector=box"), r"selector=box goes by the box .*: give box="),
        ((*ONE, "tau_exp=2"), r"tau_exp=2: expected a number in \[0, 1\]"),
        ((*ONE, "positions=beside"), "positions='beside': expected one of append, region"),
        ((*ONE, "preset=vqa"), "preset='vqa': expected one of"),
        (
            (*ONE, "max_new_tokens=99999999"),
            "max_new_tokens=99999999: the backbone's context has 2,048 tokens",
        ),
        ((*ONE, "max_new_tokens=0"), "max_new_tokens=0: expected a whole number"),
        ((*ONE, "token_sr=nowhere"), "token_sr='nowhere' is neither a folder nor a hub id"),
        ((*ONE, "limit=3"), "limit: only explain=flips reads that"),
        ((*ONE, "explain=all"), "explain='all': expected one of one, flips"),
        ((*ONE, "exif=turn"), "exif='turn': expected one of ignore, apply"),
        (("image=empty.png", "question=What?"), "image=empty.png: an empty file"),
        ((*ONE, "+colour=red"), "unknown key 'colour'"),
        (("explain=flips",), "runs=None: give the folders of two finished evaluations"),
        (("explain=flips", "runs=[a]"), "runs names 1 folders; expected"),
        (("explain=flips", "runs=[a,b]"), "a holds no scores.json"),
        (("explain=flips", "runs=[a,b]", "limit=0"), "limit=0: expected a whole number"),
        (("explain=flips", "runs=[a,b]", "layer=3"), "layer would change nothing"),
    ],
)
def test_mistakes_are_one_line(
    overrides: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, working_directory: Path
) -> None:
    """Would catch a mistake that is found after the backbone was loaded, or as a traceback."""
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        command(monkeypatch, *overrides)
    assert not (working_directory / "outputs").exists()


def test_a_picture_is_turned_where_that_is_asked(
    monkeypatch: pytest.MonkeyPatch, working_directory: Path
) -> None:
    """Would catch exif=apply that is read and forgotten."""
    Path("photo.jpg").write_bytes(sideways("JPEG", 6))  # stored 6 x 3
    asked = ("image=photo.jpg", "question=What?", "box=[0,0,3,6]", "token_sr=nowhere")
    with pytest.raises(SystemExit, match="which has 6 x 3 pixels"):
        command(monkeypatch, *asked)
    with pytest.raises(SystemExit, match="token_sr='nowhere' is neither"):  # all else of the picture fits
        command(monkeypatch, *asked, "exif=apply")


def test_pages_go_on_where_they_were_ended(
    differing_runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch pages that a signal throws away or that are made twice, and an index that differs for it."""
    settings = ("explain=flips", f"runs=[{','.join(map(str, differing_runs))}]")
    explained: list[str] = []

    def counted(self: Explainer, sample: Sample) -> Explanation:
        explained.append(sample.id)
        if len(explained) == 2:
            signal.raise_signal(signal.SIGINT)
        return stock(self, sample)

    stock = Explainer.__call__
    with monkeypatch.context() as patched:
        patched.setattr(Explainer, "__call__", counted)
        with pytest.raises(SystemExit) as ended:
            command(patched, *settings)
        assert ended.value.code == 130
        assert "stopped by SIGINT: 2 of 4 pages are written" in capsys.readouterr().err
        command(patched, *settings)
    assert len(explained) == len(set(explained)) == 4
    [folder] = Path("outputs/explain").iterdir()
    command(monkeypatch, *settings, "outputs=whole")
    [whole] = Path("whole/explain").iterdir()
    names = {path.relative_to(whole) for path in whole.rglob("*.html")} | {Path("flips.csv")}
    assert names == {path.relative_to(folder) for path in folder.rglob("*.html")} | {Path("flips.csv")}
    for name in names:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert not (folder / "parts").exists()


def test_an_answer_under_a_preset_file(
    llava_next_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a preset file that is taken for a benchmark's name, or that the user cannot override."""
    settings = {"layer": [1], "tau_exp": 0, "tau_drop": 0, "patches": 3, "positions": "region"}
    write_preset(Path("p.yaml"), settings, method="interp", note="chosen")
    asked = (*ONE, "max_new_tokens=2", f"model.path={llava_next_folder}", "preset=p.yaml", "patches=2")
    command(monkeypatch, *asked)
    [folder] = Path("outputs/explain").iterdir()
    data = json.loads((folder / "explain.json").read_text())
    config = read_config(folder / "config.yaml")
    assert (config["layer"], config["patches"], config["positions"]) == ([1], 2, "region")
    assert re.search(r"layer 1, expand above 0, drop below \S+ \(preset p.yaml\)", capsys.readouterr().out)
    assert data["provenance"]["inputs"]["preset"]
    with pytest.raises(SystemExit, match=r"preset='pope.yaml': expected one of .*, or a preset file"):
        command(monkeypatch, *ONE, f"model.path={llava_next_folder}", "preset=pope.yaml")
