"""What is told of modules, and what is uploaded: no folder of this machine in it."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

import blink
from blink.integrations.hub.card import model_card
from blink.integrations.hub.facts import read_facts, without_places
from blink.integrations.hub.release import write_release
from blink.model.fingerprint import TINY
from blink.runs.values import UserError
from blink.training.report import Summary

from .conftest import BACKBONE, write_modules


def release(folder: Path, to: Path, **more: str) -> str:
    """Write a release and return its card."""
    facts = read_facts(folder, **more)
    write_release(facts, to, repo="me/modules", license="mit")
    return (to / "README.md").read_text(encoding="utf-8")


def test_a_release_holds_what_is_needed(run_folder: Path, tmp_path: Path) -> None:
    """Would catch a release that lacks a layer, keeps a layer of an earlier one, or cannot be loaded as it lies there."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "layer_09.safetensors").write_bytes(b"of an earlier release")
    (target / "notes.txt").write_text("the user's own")
    release(run_folder, target)
    names = {path.name for path in target.iterdir()}
    weights = {f"layer_0{layer}.safetensors" for layer in (2, 3, 5)}
    assert names == {"README.md", "config.json", "kl_per_layer.png", "notes.txt", *weights}
    assert sorted(blink.load_token_sr(target)) == [2, 3, 5]
    with Image.open(target / "kl_per_layer.png") as picture:
        assert min(picture.size) > 300


def test_metadata_of_the_card(run_folder: Path, tmp_path: Path) -> None:
    """Would catch modules that no search on the hub finds: by base model, library, tag or licence."""
    data = ModelCard(release(run_folder, tmp_path / "out")).data.to_dict()
    assert data["library_name"] == "blink-mllm"
    assert (data["base_model"], data["base_model_relation"]) == (BACKBONE, "adapter")
    assert data["license"] == "mit"
    assert {"blink", "token-super-resolution"} <= set(data["tags"])
    assert data["inference"] is False  # no widget
    assert "datasets" not in data


def test_text_of_the_card(run_folder: Path, tmp_path: Path) -> None:
    """Would catch numbers of another layer, a broken table, and instructions for other modules."""
    card = release(run_folder, tmp_path / "out")
    table = card[card.index("| layer |") :].split("\n\n")[0].splitlines()
    assert [line.split("|")[1:5] for line in table[2:]] == [
        [f" {layer} ", " 0.20000 ", f" {layer / 40:.5f} ", " 50.0 % "] for layer in (2, 3, 5)
    ]
    assert len({line.count("|") for line in table}) == 1
    assert "kl_per_layer.png" in card
    assert "1,234 images of `coco`, `vg`" in card
    assert f"python -m blink.train layer=[2,3,5] 'data.root=[coco,vg]' seed=0" in card  # noqa: F541
    assert "token_sr=me/modules layer=[2,3,5]" in card
    first, second = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert first.strip().splitlines()[0] == "import blink"
    assert len([line for line in first.splitlines() if line]) == 3
    assert 'token_sr="me/modules")' in first
    compile(first + second, "card", "exec")


def test_modules_that_are_worse_are_told(run_folder: Path, tmp_path: Path) -> None:
    """Would catch a card that keeps quiet about modules that training has not brought as far as interpolation."""
    assert "further from what they were trained for" not in release(run_folder, tmp_path / "out")
    summary = Summary.read(run_folder)
    summary.layers["3"]["kl_token_sr"] = 0.3
    summary.write(run_folder)
    assert "At layer 3 the modules are further from" in release(run_folder, tmp_path / "out")
    for entry in summary.layers.values():
        entry |= {"answer_token_sr": 0.4, "answer_interpolation": 0.3}
    summary.write(run_folder)
    card = release(run_folder, tmp_path / "out")
    assert "At layers 2, 3, 5 the modules are further from" in card
    assert "| 3 | 0.20000 | 0.30000 | 50.0 % | 0.900 | 0.950 | 0.300 | 0.400 |" in card


def test_no_folder_of_this_machine_is_told(run_folder: Path, tmp_path: Path) -> None:
    """Would catch home folders and user names that a config, a command or a summary carries to the hub."""
    target = tmp_path / "out"
    release(run_folder, target)
    told = "".join(
        path.read_text(encoding="utf-8") for path in (target / "README.md", target / "config.json")
    )
    assert str(tmp_path) not in told
    assert "/home/" not in told
    assert json.loads((target / "config.json").read_text())["settings"]["data"]["root"] == ["coco", "vg"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/data/coco/train2017", "train2017"),
        ("'data.root=[/data/a.json,/data/llava]'", "'data.root=[a.json,llava]'"),
        ("data.root=~/pictures/", "data.root=pictures"),
        ("model.path=llava-hf/llava-1.5-7b-hf", "model.path=llava-hf/llava-1.5-7b-hf"),
        ("data.root=data/coco", "data.root=data/coco"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
        ("1 / 2, a/b", "1 / 2, a/b"),
    ],
)
def test_paths_keep_their_last_name(text: str, left: str) -> None:
    """Would catch a path that stays, and a hub id or address that is cut."""
    assert without_places(text) == left
    assert without_places({"a": [text, 1, None]}) == {"a": [left, 1, None]}


def test_the_backbones_name(tmp_path: Path) -> None:
    """Would catch a folder's path published as a base model, and a given base model that config.json does not get."""
    write_modules(tmp_path / "own", backbone="/home/me/models/my-llava", backbone_weights="0123456789abcdef")
    write_modules(tmp_path / "relative", backbone="models/my-llava", backbone_weights="0123456789abcdef")
    own, relative = (read_facts(tmp_path / name) for name in ("own", "relative"))
    assert (own.base_model, own.backbone, own.record()["backbone"]) == (None, "my-llava", "my-llava")
    assert relative.base_model is None
    card = model_card(own, "me/modules", None)
    assert 'blink.load("PATH/TO/my-llava")' in card
    assert "base_model" not in ModelCard(card).data.to_dict()
    assert "license" not in ModelCard(card).data.to_dict()
    given = read_facts(tmp_path / "own", "me/my-llava")
    assert given.record()["backbone"] == given.base_model == "me/my-llava"
    assert given.record()["backbone_weights"] == "0123456789abcdef"


def test_a_data_set_of_the_hub_is_linked(tmp_path: Path) -> None:
    """Would catch training data that the hub's page of the data set does not know of."""
    write_modules(tmp_path / "own", settings={"data": {"source": "hub", "id": "someone/pictures"}})
    card = model_card(read_facts(tmp_path / "own"), "me/modules", "mit")
    assert ModelCard(card).data.to_dict()["datasets"] == ["someone/pictures"]
    assert "https://huggingface.co/datasets/someone/pictures" in card


def test_the_summary_of_other_modules_is_not_told(run_folder: Path) -> None:
    """Would catch the numbers of a run that was continued or replaced, told of modules that are not its own."""
    write_modules(run_folder / "token_sr", steps=8)
    facts = read_facts(run_folder / "token_sr")
    assert facts.measures == {}
    assert "was not kept" in model_card(facts, "me/modules", "mit")


def test_a_damaged_summary_is_named(run_folder: Path) -> None:
    """Would catch a card without numbers where they are damaged, and a traceback."""
    (run_folder / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"summary.json is damaged"):
        read_facts(run_folder)


def test_a_card_of_the_users_own(run_folder: Path, tmp_path: Path) -> None:
    """Would catch a hand-written card that is overwritten, also where it lies in the folder of a dry run."""
    target = tmp_path / "out"
    release(run_folder, target)
    mine = target / "README.md"
    mine.write_text("---\nlicense: mit\n---\nMy words\n", encoding="utf-8")
    facts = read_facts(run_folder)
    write_release(facts, target, repo="me/modules", license="mit", card=mine)
    assert mine.read_text(encoding="utf-8").endswith("My words\n")
    mine.write_text("---\nlicense: [mit\n---\nMy words\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"README.md is no model card"):
        write_release(facts, target, repo="me/modules", license="mit", card=mine)
    with pytest.raises(UserError, match="a folder of its own"):
        write_release(facts, run_folder / "token_sr", repo="me/modules", license="mit")
    assert sorted(blink.load_token_sr(run_folder)) == [2, 3, 5]


def test_cards_that_ship_tell_what_lies_beside_them() -> None:
    """Would catch a card of the tiny backbone or of its modules that names files, layers or sizes that are not there."""
    for folder in (TINY, TINY / "token_sr"):
        card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
        data = card.data.to_dict()
        assert (data["library_name"], data["license"]) == ("blink-mllm", "apache-2.0")
        programs = re.findall(r"```python\n(.*?)```", card.content, re.DOTALL)
        assert programs
        exec(compile(programs[0], str(folder), "exec"), {})
    layers = re.findall(r"^\| (\d+) \| 0?\.", card.content, re.MULTILINE)
    assert [int(layer) for layer in layers] == sorted(blink.load_token_sr("tiny"))
