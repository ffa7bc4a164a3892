"""The summary of a training run against hand-computed numbers."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from blink.model.token_sr import TokenSR
from blink.model.token_sr.files import save_token_sr
from blink.runs.values import UserError
from blink.training.report import Summary, damaged_modules, print_summary, summarise

METRICS = {
    "held_out/layer_12/kl_interpolation": 0.4,
    "held_out/layer_12/kl_token_sr": 0.1,
    "held_out/layer_12/cosine_interpolation": 0.5,
    "held_out/layer_12/cosine_token_sr": 0.75,
    "held_out/layer_12/norm_ratio_interpolation": 1.0,
    "held_out/layer_12/norm_ratio_token_sr": 0.9,
    "held_out/layer_1/kl_interpolation": 0.2,
    "held_out/layer_1/kl_token_sr": 0.3,
    "held_out/layer_1/cosine_interpolation": 0.5,
    "held_out/layer_1/cosine_token_sr": 0.75,
    "held_out/layer_1/norm_ratio_interpolation": 1.0,
    "held_out/layer_1/norm_ratio_token_sr": 0.9,
}

FACTS: dict[str, Any] = {
    "steps": 7,
    "train_images": 14,
    "held_out_images": 3,
    "unreadable_images": 0,
    "backbone": "tiny",
    "revision": None,
    "token_sr": "run/token_sr",
}


def test_reduction_is_relative_to_interpolation() -> None:
    """Catches layer 1 read from layer 12's measures, and a reduction with the wrong sign or base."""
    summary = summarise(METRICS, [1, 12], **FACTS)
    assert summary.layers["12"]["kl_reduction"] == pytest.approx(0.75)
    assert summary.layers["1"]["kl_reduction"] == pytest.approx(-0.5)
    assert summary.mean_kl_token_sr == pytest.approx(0.2)
    assert summary.steps == 7


def test_a_summary_comes_back_from_its_file(tmp_path: Path) -> None:
    """Would catch a finished run that cannot be returned."""
    summary = summarise(METRICS, [1, 12], **FACTS)
    summary.write(tmp_path)
    assert Summary.read(tmp_path) == summary


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "null", json.dumps({**FACTS, "layers": {}, "mean_kl_token_sr": 1.0, "x": 2})],
)
def test_a_damaged_summary_is_named(content: str, tmp_path: Path) -> None:
    """Would catch a traceback, of JSON or of a table, at every start of a run whose last file a power failure emptied."""
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json is damaged: ") as refused:
        Summary.read(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"), [("steps", "many"), ("layers", {"12": {"kl_token_sr": 1.0}}), ("token_sr", None)]
)
def test_a_summary_with_other_values_is_damaged(name: str, value: Any, tmp_path: Path) -> None:
    """Would catch values that no version wrote, which end in the middle of the table."""
    written = asdict(summarise(METRICS, [1, 12], **FACTS)) | {name: value}
    (tmp_path / "summary.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match="is damaged"):
        Summary.read(tmp_path)


def test_modules_that_are_gone_or_cut_off_are_found(tmp_path: Path) -> None:
    """Would catch a run called done whose modules are not there any more."""
    save_token_sr({layer: TokenSR(8) for layer in (1, 2, 3)}, tmp_path, backbone="x")
    assert damaged_modules(tmp_path, (1, 2, 3)) == []
    (tmp_path / "layer_01.safetensors").unlink()
    whole = (tmp_path / "layer_03.safetensors").read_bytes()
    (tmp_path / "layer_03.safetensors").write_bytes(whole[:-1])
    assert damaged_modules(tmp_path, (1, 2, 3)) == ["layer_01.safetensors", "layer_03.safetensors"]
    (tmp_path / "config.json").write_text("")
    assert damaged_modules(tmp_path, (2,)) == ["config.json"]
    assert damaged_modules(tmp_path / "gone", (2,)) == ["config.json", "layer_02.safetensors"]


def test_table_fits_a_terminal() -> None:
    """Catches headings and numbers that are cut off at 80 columns."""
    summary = summarise(METRICS, [1, 12], **FACTS)
    screen = io.StringIO()
    print_summary(summary, Console(file=screen, width=80))
    text = screen.getvalue()
    for shown in ("KL interp.", "KL TokenSR", "0.40000", "75.0 %", "-50.0 %", "1.00 -> 0.90", "run/token_sr"):
        assert shown in text
    assert "…" not in text


def test_names_with_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a folder that is told without what rich takes for markup."""
    print_summary(summarise(METRICS, [1, 12], **{**FACTS, "token_sr": "zz[ab]/token_sr"}))
    assert "zz[ab]/token_sr" in capsys.readouterr().out


def test_the_loss_of_answers_has_a_column_where_it_was_measured() -> None:
    """Would catch a run on answers whose table says nothing of them, or no longer fits a terminal."""
    answers = {
        f"held_out/layer_{layer}/answer_{name}": value
        for layer in (1, 12)
        for name, value in (("token_sr", 0.5), ("interpolation", 12.25))
    }
    screen = io.StringIO()
    summary = summarise(METRICS | answers, [1, 12], **FACTS)
    print_summary(summary, Console(file=screen, width=80))
    assert "answers' loss" in screen.getvalue()
    assert "Worse" not in screen.getvalue()  # KL at layer 1 is, which nobody trained for
    assert summary.held_out_loss == 0.5
    assert screen.getvalue().count("12.250 -> 0.500") == 2
    assert "…" not in screen.getvalue()


def test_modules_worse_than_interpolation_are_named() -> None:
    """Would catch a short run whose modules would harm, left to the reader of one column; and a warning without cause."""
    told = []
    for layers in ([1, 12], [12]):
        screen = io.StringIO()
        summary = summarise(METRICS, layers, **FACTS)
        print_summary(summary, Console(file=screen, width=80))
        told.append("Worse than interpolation at layer(s) 1: " in screen.getvalue())
    assert told == [True, False]


def test_reference_has_a_column_where_it_was_measured() -> None:
    """Catches an earlier module's KL that is lost, or taken for the new one's."""
    metrics = METRICS | {"held_out/layer_12/kl_reference": 0.125}
    summary = summarise(metrics, [1, 12], **FACTS)
    screen = io.StringIO()
    print_summary(summary, Console(file=screen, width=80))
    rows = {line.split()[0]: line for line in screen.getvalue().splitlines() if line.strip()}
    assert "0.12500" in rows["12"]
    assert "0.10000" in rows["12"]
    assert rows["1"].split()[3] == "-"
    assert "reference" in screen.getvalue()
