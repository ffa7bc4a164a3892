"""blink.eval, blink.analyze and blink.explain on a saved checkpoint of every family, about pictures of several shapes."""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from blink import analyze, explain, tune
from blink import eval as evaluation
from blink.inference.engine import Engine
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.checkpoints import load_backbone
from blink.model.prompts import template_of
from tests import models
from tests.bench.files import write_parquet

SIZES = ((60, 60), (120, 44), (28, 90))
NARROW = (8, 160)
"""Too narrow for regions in the Qwens: one token wide."""

QWENS = [name for name in models.SMALL if name.startswith("qwen")]
FEW = ("model.template=null", "layer=1-2", "tau_exp=0.3", "tau_drop=0.26", "method=interp")


pytestmark = pytest.mark.usefixtures("in_empty_folder")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A saved random checkpoint of a family, and its processor."""
    made: dict[str, Path] = {}

    def found(name: str) -> Path:
        if name not in made:
            made[name] = models.save(models.family(name, layers=3), tmp_path_factory.mktemp(name))
        return made[name]

    return found


def pope(root: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """POPE as the hub has it: two questions about each picture."""
    rows = [
        {
            "question_id": str(2 * number + asked),
            "question": f"Is there a {('dog', 'cat')[asked]} in the image?",
            "answer": ("yes", "no")[asked],
            "image_source": f"picture{number}",
            "image": models.picture(number, size),
            "category": "random",
        }
        for number, size in enumerate(sizes)
        for asked in (0, 1)
    ]
    write_parquet(root, rows, "test-00000-of-00001.parquet")
    return root


def command(module: Any, *overrides: str) -> Path:
    """A command with these overrides, in this process; returns the newest run's folder."""
    before = sys.argv
    sys.argv = [module.__name__, *overrides]
    try:
        module.main()
    finally:
        sys.argv = before
    name = module.__name__.rpartition(".")[2]
    return max((Path("outputs") / name).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def asked_of(folder: Path, root: Path) -> tuple[str, ...]:
    return (f"model.path={folder}", f"data.root={root}", "bench.splits=[random]", "bench.max_new_tokens=3")


@pytest.mark.parametrize("name", models.SMALL)
def test_answers_are_the_same_together_and_alone(
    name: str, folder_of: Callable[[str], Path], in_empty_folder: Path
) -> None:
    """Would catch a family that blink.eval cannot load, ask or count, and a trunk that its pictures do not share."""
    positions = "region" if name in ("llava_siglip", "smolvlm", "qwen2_5_vl") else "append"
    root = pope(in_empty_folder / "pope", SIZES)
    settings = (*asked_of(folder_of(name), root), *FEW, f"positions={positions}", "logger=none")
    together, alone = (command(evaluation, *settings, f"engine.reuse={reuse}") for reuse in ("full", "none"))
    answers = [
        [
            (row["id"], row["response"], row["flops"], [(e["region"], e["action"]) for e in row["events"]])
            for row in rows_of(folder)
        ]
        for folder in (together, alone)
    ]
    assert answers[0] == answers[1]
    assert all(flops > 0 for _, _, flops, _ in answers[0])
    result = json.loads((together / "scores.json").read_text())
    assert (result["n"], result["images"], result["without_blink"]) == (6, 3, 0)
    assert (result["policy"]["positions"], result["expanded"] > 0) == (positions, True)
    assert (together / "example.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", models.SMALL)
def test_prompts_about_one_picture_share_its_trunk(name: str, folder_of: Callable[[str], Path]) -> None:
    """Would catch a template or processor by which each question begins with other tokens, so that nothing is shared."""
    backbone = load_backbone(folder_of(name))
    template = template_of(backbone.processor)
    prompts = [template.prompt(f"Is there a {thing}?") for thing in ("dog", "cat", "red car")]
    passes: list[torch.Size] = []
    hook = backbone.decoder.layers[0].register_forward_hook(
        lambda _, inputs, __: passes.append(inputs[0].shape)
    )
    engine = Engine(backbone)
    try:
        engine.answer(
            models.picture(1, (120, 44)), prompts, [Run(), Run(Policy([1], 0, 0))], max_new_tokens=1
        )
    finally:
        hook.remove()
    trunks = [rows for rows, columns, _ in passes if columns >= 36]
    assert trunks == [1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_a_picture_too_narrow_does_not_end_an_evaluation(
    name: str, folder_of: Callable[[str], Path], in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a benchmark, a sweep or a figure that one picture ends, and what was spared that nobody counts."""
    root = pope(in_empty_folder / "pope", [(60, 60), NARROW])
    settings = (*asked_of(folder_of(name), root), *FEW)
    [first, *_] = folders = [
        command(evaluation, *settings, "logger=none", f"engine.reuse={r}") for r in ("full", "none")
    ]
    assert "answered without Blink" in capsys.readouterr().out
    for folder in folders:
        rows = rows_of(folder)
        assert [len(row["events"]) for row in rows] == [2, 2, 0, 0]
        assert (
            rows[2]["without_blink"] == "the 20 x 1 grid of visual tokens cannot be split into 2 x 2 regions"
        )
        assert json.loads((folder / "scores.json").read_text())["without_blink"] == 2
    stock = command(evaluation, *settings[:-1], "method=vanilla", "logger=none")
    assert [row["response"] for row in rows_of(stock)[2:]] == [row["response"] for row in rows_of(first)[2:]]
    if name == QWENS[0]:
        swept = [setting for setting in settings if not setting.startswith("tau_exp")]
        sys.argv = ["blink.eval", *swept, "tau_exp=0.3,0.9", "logger=none", "--multirun"]
        evaluation.main()
        [table] = Path("outputs/sweeps").glob("*/sweep.csv")
        with table.open() as file:
            assert [row["without_blink"] for row in csv.DictReader(file)] == ["2", "2"]


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("llava_onevision", "attention_maps"),
        ("internvl", "attention_ratio"),
        ("smolvlm", "redistribution"),
        ("qwen2_vl", "attention_ratio"),
        ("qwen2_5_vl", "attention_maps"),
        ("qwen3_vl", "redistribution"),
    ],
)
def test_a_figure_draws_each_question_on_its_own_grid(
    name: str, figure: str, folder_of: Callable[[str], Path], in_empty_folder: Path
) -> None:
    """Would catch maps of one shape for pictures of several, and a picture too narrow that ends a figure."""
    root = pope(in_empty_folder / "pope", [(60, 60), (28, 90), NARROW])
    more = {"redistribution": ("figure.layer=1", "figure.refine=false", "figure.cases=2", "positions=region")}
    asked = asked_of(folder_of(name), root)[:3]
    folder = command(analyze, *asked, f"figure={figure}", *more.get(figure, ()))
    with (folder / f"{figure}.csv").open() as file:
        records = list(csv.DictReader(file))
    narrow = name in QWENS
    if figure == "attention_maps":
        maps = json.loads((folder / f"{figure}.json").read_text())["cases"]
        shapes = {(len(of["maps"]["1"]), len(of["maps"]["1"][0])) for of in maps}
        assert shapes == ({(8, 8), (11, 4)} if narrow else {(6, 6)})
    else:
        assert {record["samples"] for record in records} == {"4" if narrow else "6"}


@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "smolvlm", "qwen2_5_vl", "qwen3_vl"])
def test_an_answer_is_explained(name: str, folder_of: Callable[[str], Path]) -> None:
    """Would catch a page with another picture's grid, and costs of one side in the column of the other."""
    models.picture(3, (56, 88)).save("dog.png")
    settings = (f"model.path={folder_of(name)}", "image=dog.png", *FEW, "max_new_tokens=3", "patches=3")
    folder = command(explain, *settings, "question='Is there a dog?'", "box=[4,4,20,30]", "interpolate=false")
    page = json.loads((folder / "explain.json").read_text())
    grid = (11, 7) if name in QWENS else (6, 6)
    assert tuple(page["grid"]) == grid
    stock, blink = page["answers"]
    assert {len(layer["saliency"]) for answer in (stock, blink) for layer in answer["layers"]} == {
        grid[0] * grid[1]
    }
    if name in QWENS:  # 11 rows are cut behind 3 and 7 of them, 7 columns behind 2 and 4
        assert blink["cuts"] == [[0, 0.272727, 0.636364, 1], [0, 0.285714, 0.571429, 1]]
    assert blink["right"] == 0
    assert blink["flops"] > stock["flops"] > 0
    assert blink["token_layers"] - stock["token_layers"] == sum(
        len(one["extended"]) for one in blink["layers"]
    )
    assert (folder / "explain.html").is_file()


def test_an_answer_about_a_picture_too_narrow_is_not_explained(folder_of: Callable[[str], Path]) -> None:
    """Would catch a traceback, or a page without Blink that says it is one with Blink."""
    models.picture(3, NARROW).save("pole.png")
    with pytest.raises(
        SystemExit, match=r"error: image=pole.png: the 20 x 1 grid of visual tokens cannot be split"
    ):
        command(explain, f"model.path={folder_of('qwen2_vl')}", "image=pole.png", "question=What?", *FEW)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 1640), (1640, 8)])
def test_a_picture_that_the_processor_refuses_is_told_before_anything_is_answered(
    size: tuple[int, int], folder_of: Callable[[str], Path], in_empty_folder: Path
) -> None:
    """Would catch an evaluation that ends at its last question, as none can be made of a picture 200 times as long as wide."""
    qwen, root = folder_of(QWENS[0]), pope(in_empty_folder / "pope", [(60, 60), (40, 90), size])
    asked = asked_of(qwen, root)
    named = f"no picture of {size[0]} x {size[1]} pixels .*200"
    for overrides in (FEW, ("model.template=null", "method=vanilla")):
        with pytest.raises(
            SystemExit, match=rf"^error: question random/4: .*{named}.*2 of 6 questions"
        ) as ended:
            command(evaluation, *asked, *overrides, "logger=none")
        assert ended.value.code == 2
    with pytest.raises(SystemExit, match=named):
        command(analyze, *asked[:3], "figure=attention_ratio")
    with pytest.raises(SystemExit, match=named):
        command(tune, *asked[:2], "bench=pope", "split=test")
    models.picture(0, size).save("long.png")
    with pytest.raises(SystemExit, match=named):
        command(explain, asked[0], "image=long.png", "question='Is it red?'", *FEW)
    assert not list(Path().rglob("predictions.jsonl"))
    folder = command(evaluation, f"model.path={folder_of('llava_next')}", *asked[1:], *FEW, "logger=none")
    assert len(rows_of(folder)) == 6
