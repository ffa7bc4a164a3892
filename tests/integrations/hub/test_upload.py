"""From a training run to a repository and back, over HTTP, with the hub's own client."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import blink
from blink.integrations.hub.upload import push_token_sr
from blink.model.token_sr.files import token_sr_config
from blink.model.token_sr.source import find_token_sr
from blink.push import main
from blink.runs.values import UserError
from tests.processes import python

from .conftest import LAYERS, write_modules
from .server import TOKEN, Hub, Repository

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # the hub's client, of its own library

FILES = {"README.md", "config.json", "kl_per_layer.png", *(f"layer_0{layer}.safetensors" for layer in LAYERS)}


def same(found: Any, module: Any) -> bool:
    """Whether two modules have the same weights."""
    weights = module.state_dict()
    return all(torch.equal(tensor, weights[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("large", [2**60, 1000])
def test_there_and_back(hub: Hub, run_folder: Path, large: int) -> None:
    """Would catch a file that is not sent, weights that come back otherwise, and a commit that the result misnames."""
    hub.large = large  # weights then go by another way than texts
    pushed = push_token_sr(run_folder, "me/modules", private=True, message="first")
    repo = hub.repositories["me/modules"]
    assert repo.private
    assert repo.messages == ["initial commit", "first"]
    assert repo.refs["main"] == pushed.commit
    assert set(repo.commits[pushed.commit or ""]) == FILES | {".gitattributes"}
    assert set(pushed.files) == FILES
    assert pushed.url == f"{hub.url}/me/modules/commit/{pushed.commit}"
    assert pushed.folder is None
    kept = blink.load_token_sr(run_folder)
    found = blink.load_token_sr("me/modules", channels=8)
    assert list(found) == list(LAYERS)
    assert all(same(found[layer], kept[layer]) for layer in LAYERS)
    assert find_token_sr("me/modules").digest == pushed.commit


def test_only_scanned_layers_are_downloaded(hub: Hub, run_folder: Path) -> None:
    """Would catch gigabytes of layers that no policy scans, and an evaluation that downloads weights to read a config."""
    push_token_sr(run_folder, "me/modules")
    assert token_sr_config("me/modules").layers == LAYERS
    assert not hub.asked("layer_")
    blink.load_token_sr("me/modules", layers=[3])
    assert [line.rpartition("/")[2] for line in hub.asked("GET .*layer_")] == ["layer_03.safetensors"]
    digest = find_token_sr("me/modules").digest
    blink.load_token_sr("me/modules", layers=[3, 5])
    assert [line.rpartition("/")[2] for line in hub.asked("GET .*layer_")] == [
        "layer_03.safetensors",
        "layer_05.safetensors",
    ]
    assert find_token_sr("me/modules").digest == digest  # though another file lies there now
    with pytest.raises(ValueError, match=r"layers \[4\] are scanned too"):
        blink.load_token_sr("me/modules", layers=[4])


def test_revisions(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    """Would catch a branch that moves main, a revision that is ignored, and layers of two commits read together."""
    first = push_token_sr(run_folder, "me/modules")
    modules = write_modules(tmp_path / "other", layers=(3,), steps=9)
    second = push_token_sr(tmp_path / "other", "me/modules", revision="longer")
    repo = hub.repositories["me/modules"]
    assert repo.refs == {"main": first.commit, "longer": second.commit}
    assert set(repo.commits[second.commit or ""]) == {
        *(".gitattributes", "README.md", "config.json", "layer_03.safetensors")
    }
    for given in ({"path": "me/modules@longer"}, {"path": "me/modules", "revision": "longer"}):
        found = blink.load_token_sr(**given)  # type: ignore[arg-type]
        assert list(found) == [3]
        assert same(found[3], modules[3])
    assert token_sr_config("me/modules@longer").steps == 9
    assert token_sr_config("me/modules").steps == token_sr_config(first.token_sr).steps == 7
    assert find_token_sr(second.token_sr).digest == second.commit
    with pytest.raises(ValueError, match="not found on the hub"):
        blink.load_token_sr("me/modules@nowhere")


def test_what_was_downloaded_is_there_without_a_network(
    hub: Hub, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a cluster's node that cannot read what a login node has fetched, and a layer that it lacks told as damaged."""
    push_token_sr(run_folder, "me/modules")
    blink.load_token_sr("me/modules", layers=[3])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.seen)
    assert list(blink.load_token_sr("me/modules", layers=[3])) == [3]
    with pytest.raises(ValueError, match=r"layer_05.safetensors not found on the hub"):
        blink.load_token_sr("me/modules", layers=[5])
    assert len(hub.seen) == before


def test_attach_by_hub_id(hub: Hub, llava_folder: Path, tmp_path: Path) -> None:
    """Would catch `token_sr="name/repo"` that reads no weights, and modules of another backbone without a word."""
    model, _ = blink.load(llava_folder, device="cpu")
    torch.manual_seed(1)
    width = model.config.text_config.hidden_size
    blink.save_token_sr({1: blink.TokenSR(width)}, tmp_path / "own", backbone="someone/llava-small")
    push_token_sr(tmp_path / "own", "me/modules")
    with pytest.warns(UserWarning, match="trained on the backbone someone/llava-small, and this model is"):
        handle = blink.attach(model, blink.Policy([1]), token_sr="me/modules@main")
    assert "TokenSR" in repr(handle)


def test_a_second_push_replaces_the_first(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    """Would catch layers of an earlier push that stay, and a repository that has to be new."""
    push_token_sr(run_folder, "me/modules")
    write_modules(tmp_path / "other", layers=(7,))
    pushed = push_token_sr(tmp_path / "other", "me/modules", private=False)
    names = set(hub.repositories["me/modules"].commits[pushed.commit or ""])
    assert names == {".gitattributes", "README.md", "config.json", "layer_07.safetensors"}


def test_a_dry_run_asks_nothing(
    hub: Hub, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a dry run that needs a token, or makes a repository."""
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    pushed = push_token_sr(run_folder, "me/modules", folder=tmp_path / "out", dry_run=True)
    assert (pushed.url, pushed.commit, pushed.token_sr) == (None, None, "me/modules")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert hub.seen == []
    with pytest.raises(UserError, match=r"no token .* `hf auth login`, or set HF_TOKEN"):
        push_token_sr(run_folder, "me/modules")
    with pytest.raises(UserError, match="token_sr='nowhere' is neither a folder"):
        push_token_sr("nowhere", "me/modules")
    assert hub.seen == []


def foreign(hub: Hub, **options: Any) -> None:
    """A repository that holds a model."""
    repo = Repository(**options)
    repo.commit("main", {"config.json": b"{}", "model.safetensors": b"", "README.md": b""}, "a model")
    hub.repositories["me/modules"] = repo


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"repo": "modules"}, r"repo='modules': expected owner/name"),
        ({"repo": "a/b/c"}, r"repo='a/b/c': expected owner/name"),
        ({"repo": "https://huggingface.co/me/x"}, r"repo='https://huggingface.co/me/x': expected owner/name"),
        ({"repo": "me/mod ules"}, r"repo='me/mod ules': "),
        ({"repo": 12}, r"repo=12: expected a text"),
        ({"token_sr": "nowhere"}, "token_sr='nowhere' is neither a folder nor a hub id"),
        ({"token_sr": "me/modules"}, "token_sr='me/modules' is no folder"),
        ({"base_model": "llava"}, r"base_model='llava': expected the hub id"),
        ({"revision": "a b"}, r"revision='a b': expected the name of a branch"),
        ({"private": "yes"}, r"private='yes': expected true or false"),
        ({"license": ""}, r"license='': expected a text"),
        ({"card": "nowhere.md"}, r"cannot read nowhere.md"),
        ({"dry_run": True}, r"say where with folder=FOLDER"),
    ],
)
def test_arguments_that_do_not_fit(hub: Hub, run_folder: Path, given: dict[str, Any], says: str) -> None:
    """Would catch a mistake that is told by the hub's client, or once a repository is made."""
    with pytest.raises(UserError, match=says):
        push_token_sr(**{"token_sr": run_folder, "repo": "me/modules", **given})
    assert not hub.asked("/api/(models|repos)")


def test_folders_without_modules(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    """Would catch an upload of a folder that nobody can load."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a token_sr folder"):
        push_token_sr(tmp_path / "empty", "me/modules")
    (run_folder / "token_sr" / "layer_03.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"layer_03.safetensors does not hold the module"):
        push_token_sr(run_folder, "me/modules")
    assert not hub.asked("/api/(models|repos)")


def test_weights_that_are_no_numbers_stay_here(hub: Hub, run_folder: Path) -> None:
    """Would catch modules of a run that went wrong, given to everybody."""
    file = run_folder / "token_sr" / f"layer_0{LAYERS[-1]}.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, file)
    with pytest.raises(UserError, match=rf"layer {LAYERS[-1]}: weights of token_sr=.* are nan"):
        push_token_sr(run_folder, "me/modules")
    assert not hub.repositories


def test_repositories_of_something_else(hub: Hub, run_folder: Path) -> None:
    """Would catch somebody's model that is overwritten, and modules that were to be private in a public place."""
    foreign(hub)
    with pytest.raises(UserError, match="holds something else than TokenSR modules"):
        push_token_sr(run_folder, "me/modules")
    push_token_sr(run_folder, "me/open")
    with pytest.raises(UserError, match="private=true: me/open is there already and is public"):
        push_token_sr(run_folder, "me/open", private=True)
    assert list(hub.repositories["me/modules"].messages) == ["a model"]


@pytest.mark.parametrize(
    ("refused", "status", "says"),
    [
        ("POST /api/repos/create", 403, r"the hub refuses \(403\): You may not"),
        ("POST .*/preupload/", 403, r"the hub refuses \(403\): You may not"),
        ("POST .*/commit/", 400, r"the hub refuses \(400\): You may not"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: Hub, run_folder: Path, refused: str, status: int, says: str
) -> None:
    """Would catch a page of HTTP for a token that may only read, and a reason that is swallowed."""
    hub.refusals[refused] = (status, "You may not write to me/modules")
    with pytest.raises(UserError, match=says) as caught:
        push_token_sr(run_folder, "me/modules")
    assert "\n" not in str(caught.value)


def test_a_wrong_token(hub: Hub, run_folder: Path) -> None:
    """Would catch a token given by hand that is not used."""
    with pytest.raises(UserError, match=r"the hub refuses \(401\)"):
        push_token_sr(run_folder, "me/modules", token="hf_of_nobody")
    push_token_sr(run_folder, "me/modules", token=TOKEN)


def test_no_network(run_folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a traceback of a connection, offline by setting or by a cut cable."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"the hub cannot be reached.*offline mode is enabled"):
        push_token_sr(run_folder, "me/modules")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError, match=r"repo=me/modules: the hub cannot be reached"):
        push_token_sr(run_folder, "me/modules")


def run(*overrides: str) -> None:
    """The command, in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["blink.push", *overrides])
        main()


def test_the_command(
    hub: Hub, run_folder: Path, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch keys that do not reach `push_token_sr`, and a command that does not say how to load what it sent."""
    run(f"token_sr={run_folder}", "repo=me/modules", "revision=v1", "license=mit", "message=one line")
    repo = hub.repositories["me/modules"]
    commit = repo.refs["v1"]
    assert repo.messages[-1] == "one line"
    assert b"license: mit" in repo.commits[commit]["README.md"]
    assert {path.name for path in Path("outputs/push/me--modules").iterdir()} == FILES
    said = capsys.readouterr().out
    assert f"token_sr=me/modules@{commit} loads these modules" in said
    run("token_sr=tiny", "repo=me/tiny", "dry_run=true", "outputs=look")
    assert len(list(Path("look/push/me--tiny").glob("layer_*.safetensors"))) == 16
    assert "me/tiny" not in hub.repositories


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((), "token_sr must be given"),
        (("token_sr=tiny",), "repo must be given"),
        (("token_sr=tiny", "repo=tiny"), "repo='tiny': expected owner/name"),
        (("token_sr=tiny", "repo=me/tiny", "private=2"), "private=2: expected true or false"),
        (("token_sr=tiny", "repo=me/tiny", "licence=mit"), "did you mean license"),
        (("token_sr=tiny", "repo=me/tiny", "+a=1"), "unknown key 'a'"),
        (("token_sr=tiny", "repo=me/tiny"), "the hub refuses (403): You may not"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    hub: Hub,
    in_empty_folder: Path,
    overrides: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Would catch a traceback for a mistake, or an exit code of success."""
    hub.refusals["POST /api/repos/create"] = (403, "You may not write to me/tiny")
    with pytest.raises(SystemExit) as ended:
        run(*overrides)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_the_command_as_users_start_it(hub: Hub, run_folder: Path, tmp_path: Path) -> None:
    """Would catch settings of these tests without which nothing works: the client reads its own, and may use other ways."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
    }
    done = python(
        *("-m", "blink.push", f"token_sr={run_folder}", "repo=me/modules"), env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert hub.repositories["me/modules"].refs["main"] in done.stdout
    code = "import blink; print(sorted(blink.load_token_sr('me/modules', layers=[2, 5])))"
    assert python("-c", code, env=environment, cwd=tmp_path).stdout.strip() == "[2, 5]"
