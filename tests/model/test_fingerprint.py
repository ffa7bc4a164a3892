"""Hashes that tell one checkpoint from another."""

from pathlib import Path

import pytest

from blink.model.fingerprint import Fingerprint, files_digest


def test_digest_notices_changed_weights_and_settings(tmp_path: Path) -> None:
    """Catches a digest of names only (same size, other content), and a tokenizer that changes behind a run's back."""
    weights, settings = tmp_path / "layer_01.safetensors", tmp_path / "tokenizer.json"
    weights.write_bytes(b"a" * 5000)
    settings.write_text("{}")
    digests = [files_digest(tmp_path)]
    (tmp_path / "notes.txt").write_text("irrelevant")
    assert files_digest(tmp_path) == digests[0]
    weights.write_bytes(b"a" * 4999 + b"b")
    digests.append(files_digest(tmp_path))
    settings.write_text("[]")
    digests.append(files_digest(tmp_path))
    assert len(set(digests)) == 3


def test_hashes_stay_what_they_were(tmp_path: Path) -> None:
    """Would catch runs and stored features that refuse to continue after an update, as if the checkpoint had changed."""
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(bytes(range(251)) * 10_000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"short")
    (tmp_path / "README.md").write_text("no part of it")
    found = Fingerprint(str(tmp_path))
    assert (found.files, found.weights) == ("cbe76fe16daaba1e", "9a74ebf70ecc9a06")
    (tmp_path / "tokenizer.json").write_text("[]")
    assert found.files != "cbe76fe16daaba1e"
    assert found.weights == "9a74ebf70ecc9a06"


def test_a_hub_id_is_told_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a hub id that is looked for on this machine's disk."""
    monkeypatch.chdir(tmp_path)
    found = Fingerprint("owner/name", "abc")
    assert (found.files, found.weights) == ("e3b0c44298fc1c14", "abc")
