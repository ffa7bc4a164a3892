"""How modules are named: folders, run folders, what ships, hub ids with and without a revision."""

from pathlib import Path

import pytest

import blink
from blink.model.fingerprint import TINY, Fingerprint, same_checkpoint
from blink.model.token_sr import TokenSR
from blink.model.token_sr.files import check_token_sr, save_token_sr, token_sr_config
from blink.model.token_sr.source import find_token_sr
from tests import models


def test_what_ships_is_called_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a reader of modules that knows folders only, and a folder `tiny` that hides what ships."""
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert token_sr_config("tiny").layers == tuple(range(16))
    assert list(blink.load_token_sr("tiny", layers=[3])) == [3]
    assert find_token_sr("tiny").digest == find_token_sr(TINY / "token_sr").digest
    check_token_sr("tiny", channels=128, layers=[0, 15])
    for own in ("./tiny", Path("tiny")):
        assert find_token_sr(own).folder == Path("tiny")


def test_the_folder_of_a_run_holds_its_modules(tmp_path: Path) -> None:
    """Catches a user who gives the run's folder and is told that it is none of modules."""
    save_token_sr({2: TokenSR(8)}, tmp_path / "token_sr", backbone="b")
    assert list(blink.load_token_sr(tmp_path)) == [2]
    assert find_token_sr(tmp_path).digest == find_token_sr(tmp_path / "token_sr").digest


@pytest.mark.parametrize(
    ("given", "repo", "revision"),
    [
        ("name/repo", "name/repo", None),
        ("name/repo@v1.0", "name/repo", "v1.0"),
        ("name/re.po_2@refs/pr/1", "name/re.po_2", "refs/pr/1"),
    ],
)
def test_hub_ids(given: str, repo: str, revision: str | None) -> None:
    """Catches a revision that is taken for a part of the name."""
    found = find_token_sr(given)
    assert (found.folder, found.repo, found.revision) == (None, repo, revision)
    assert find_token_sr("name/repo", "v2").revision == "v2"


@pytest.mark.parametrize(
    ("given", "revision", "says"),
    [
        ("", None, "neither a folder nor a hub id"),
        ("nowhere", None, "neither a folder nor a hub id .* nor 'tiny'"),
        ("name/repo@", None, "neither a folder nor a hub id"),
        ("a/b/c", None, "neither a folder nor a hub id"),
        ("name/repo@v1", "v2", "names the revision 'v1', and revision='v2' another"),
        ("tiny", "v1", "is a folder, which holds one revision"),
    ],
)
def test_names_of_no_modules(given: str, revision: str | None, says: str) -> None:
    """Catches a revision that is ignored in silence, and a request to the hub for what is no id."""
    with pytest.raises(ValueError, match=says):
        find_token_sr(given, revision)


def test_a_copy_of_a_checkpoint_is_known_by_its_weights(llava_folder: Path, tmp_path: Path) -> None:
    """Catches an alarm for a copy of the right backbone, and silence for other weights under the same name."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in llava_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = Fingerprint(str(llava_folder)).weights
    assert same_checkpoint(str(copy), str(llava_folder), weights)
    assert not same_checkpoint(str(copy), str(llava_folder))
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-8, 2)
        stream.write(b"otherwts")
    assert not same_checkpoint(str(copy), str(copy), weights)
    assert same_checkpoint("tiny", "tiny")
    assert same_checkpoint(str(TINY), "tiny")
    assert same_checkpoint("name/repo", "name/repo", weights)
    assert not same_checkpoint("name/other", "name/repo", weights)


def test_modules_of_another_backbone_are_told(llava_folder: Path, tmp_path: Path) -> None:
    """Catches modules of another backbone attached without a word, and a false alarm for the right one."""
    model, _ = blink.load(llava_folder, device="cpu")
    width = model.config.text_config.hidden_size
    save_token_sr({1: TokenSR(width)}, tmp_path / "own", backbone=str(llava_folder))
    save_token_sr({1: TokenSR(width)}, tmp_path / "other", backbone="llava-hf/llava-1.5-7b-hf")
    blink.attach(model, blink.Policy([1]), token_sr=tmp_path / "own").detach()
    with pytest.warns(
        UserWarning, match=r"trained on the backbone llava-hf/llava-1.5-7b-hf, and this model is"
    ):
        blink.attach(model, blink.Policy([1]), token_sr=tmp_path / "other").detach()
    made = models.llava(grid=6, layers=2, hidden=32)
    blink.attach(made, blink.Policy([1]), token_sr=tmp_path / "other").detach()
