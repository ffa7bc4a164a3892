"""Records of where results come from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from blink.runs.provenance import INPUTS, check_inputs, commit, differences, provenance, versions


def git(root: Path, *arguments: str) -> str:
    """Run git in a repository."""
    settings = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit.cache_clear()
    return tmp_path


def test_a_checkout_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a commit without its uncommitted changes, a new file that nobody sees, and a hook's GIT_DIR believed."""
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit(checkout) == {"commit": head, "dirty": False}
    (checkout / "new.py").touch()
    commit.cache_clear()
    assert commit(checkout) == {"commit": head, "dirty": True}
    (checkout / "new.py").unlink()
    (checkout / "code.py").write_text("a = 2\n")
    commit.cache_clear()
    assert commit(checkout) == {"commit": head, "dirty": True}


def test_without_checkout_or_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the commit of a repository that a virtual environment happens to lie in, and a crash without git."""
    (checkout / "venv" / "lib").mkdir(parents=True)
    assert commit(checkout / "venv" / "lib") is None
    monkeypatch.setenv("PATH", "")
    commit.cache_clear()
    assert commit(checkout) is None


def test_a_record_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a version that is not the one at work, a command that a shell reads otherwise, and values JSON cannot hold."""
    import lightning
    import torch
    import transformers

    monkeypatch.setattr(sys, "argv", ["/somewhere/eval.py", "data.root=a b"])
    record = provenance("eval", ["data.root=a b", "seed=3"], seed=3, inputs={"backbone": "abc"})
    assert json.loads(json.dumps(record)) == record
    assert record["command"] == "python -m blink.eval 'data.root=a b' seed=3"
    assert record["started_as"] == "/somewhere/eval.py 'data.root=a b'"
    assert (record["seed"], record["inputs"]) == (3, {"backbone": "abc"})
    at_work = (torch.__version__, transformers.__version__, lightning.__version__)
    assert tuple(record["versions"][name] for name in ("torch", "transformers", "lightning")) == at_work
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_differences_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches answers of two versions under one score without a word."""
    record = provenance("eval", [])
    assert differences(record, record) == []
    old = record | {"versions": versions() | {"torch": "1.0"}, "git": {"commit": "a" * 40, "dirty": True}}
    changed, code = differences(old, record)[::-1]
    assert code == f"torch 1.0 then, {versions()['torch']} now"
    assert changed.startswith("code aaaaaaaaaaaa with changes then, ")
    assert differences({}, record)


def test_inputs_are_fixed_once_something_came_of_them(tmp_path: Path) -> None:
    """Would catch a run that goes on from a backbone of another revision, and one that cannot start again before."""
    record = tmp_path / INPUTS
    check_inputs(record, {"revision": "old"}, begun=False)
    check_inputs(record, {"revision": "new"}, begun=False)
    check_inputs(record, {"revision": "new"})
    with pytest.raises(ValueError, match=r"begun with another revision .*new then, old now.*fresh=true"):
        check_inputs(record, {"revision": "old"})
