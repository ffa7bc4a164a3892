"""What the command refuses, in one line and before any work, and its help."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from blink.runs.config.settings import jobs_of
from tests.eval_runs import SMALL, command

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_sweep_with_one_bad_point_starts_no_job(
    backbone: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a mistake in the last point found after hours on the first ones."""
    with pytest.raises(SystemExit, match=r"error: tau_exp=1.7: expected a number in \[0, 1\]"):
        command(monkeypatch, backbone, *SMALL, "method=interp", "layer=1", "tau_exp=0.5,1.7", "--multirun")
    assert not (in_empty_folder / "outputs" / "eval").exists()


@pytest.mark.parametrize(
    ("swept", "message"),
    [("limit=1,x", "error: limit='x'"), ("tau_expp=0.1,0.2", "error: .*tau_expp")],
)
def test_sweep_with_a_mistyped_point_starts_no_job(
    backbone: str, swept: str, message: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check whose failure Hydra reports as a warning before it starts the first job."""
    with pytest.raises(SystemExit, match=message):
        command(monkeypatch, backbone, *SMALL, "method=vanilla", swept, "--multirun")
    assert not (in_empty_folder / "outputs" / "eval").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("layer=4",), "layers .4.; this model has decoder layers 0 to 3"),
        (("layer=5-2",), "run backwards"),
        (("layer=1", "tau_exp=-0.1"), "tau_exp=-0.1: expected a number in"),
        (("layer=1", "tau_drop=2"), "tau_drop=2: expected a number in"),
        (("layer=1", "tau_exp=high"), "tau_exp='high': expected a number in"),
        (("layer=1", "patches=1"), "patches=1: expected a whole number of at least 2"),
        (("layer=1", "patches=7"), "patches=7 does not fit the 6 x 6 grid"),
        (("layer=1", "saliency=gradient"), "saliency='gradient': expected one of attention"),
        (("layer=1", "method=blink"), "method=blink needs TokenSR modules"),
        (
            ("layer=1", "method=blink", "token_sr=/missing"),
            "token_sr='/missing' is neither a folder nor a hub id",
        ),
        (("layer=1", "data.root=/missing"), "data.root=/missing is not a folder"),
        (("layer=1", "data=local"), "data.root"),
        (("layer=1", "limit=0"), "limit=0: expected a whole number of at least 1"),
        (("layer=1", "limit=1.5"), "limit=1.5: expected a whole number of at least 1"),
        (("layer=1", "engine.reuse=some"), "engine.reuse='some': expected one of full, none"),
        (("layer=1", "engine.batch=0"), "engine.batch=0: expected a whole number of at least 1"),
        (("layer=1", "engine.memory_gb=0"), "engine.memory_gb=0: expected a number above 0"),
        (("layer=1", "engine.memory_gb=x"), "engine.memory_gb='x': expected a number above 0"),
        (("layer=1", "scenes.images=x"), "scenes.images='x': expected a whole number"),
        (("layer=1", "scenes.images=1000001"), "scenes.images=1000001: a split has 1,000,000 pictures"),
        (
            ("layer=1", "scenes.difficulty=hart"),
            "scenes.difficulty='hart': expected one of easy, ordinary, hard",
        ),
        (("layer=1", "data=hub", "data.split=val"), "data.split: only blink.train reads that"),
        (("layer=1", "data=hub", "data.column=a", "data.name=b"), "data.column, data.name: only blink.train"),
        (("layer=1", "data=hub", "data.id=a/b", "data.root=c"), "data.root=c and data.id=a/b are both given"),
        (("layer=1", "model.family=llava15"), "model.family='llava15': expected one of llava15_7b, .*tiny"),
        (("model.family=llava15_7b",), "has 4 decoder layers, and .*=llava15_7b are .* 32; .* layer=2"),
        (("layer=1", "model.pad=1"), "model.pad=1: expected one of True, False, None"),
        (("layer=1", "model.max_pixels=5000"), "model.max_pixels=5000 is for models .* 'llava'"),
        (("layer=1", "model.min_pixels=few"), "model.min_pixels='few': expected a whole number"),
        (("layer=1", "scenes.split=[test]"), "scenes.split=.'test'.: expected a text"),
        (
            ("layer=1", "bench.max_new_tokens=99999999"),
            "bench.max_new_tokens=99999999: the backbone's context has 2,048 tokens",
        ),
        (("layer=1", "model.device=meta"), "model.device=meta: this machine has 0 such devices"),
        (("layer=1", "model.device=cpu:3"), "model.device=cpu:3: this machine has 1 such devices"),
        (("layer=1", "bench.max_new_tokens=0"), "bench.max_new_tokens=0: expected a whole number"),
        (("layer=1", "bench.splits=5"), "POPE splits 5: choose one or more of adversarial"),
        (
            ("layer=1", "bench.splits=[[random]]"),
            "bench.splits=.*: expected a text, a whole number or a list",
        ),
        (("layer=1", "data.root=[a,b]"), "data.root=.'a', 'b'.: expected a text"),
        (("layer=1", "prompt=mine"), "prompt='mine': expected one of llava, lmms_eval"),
        (("layer=1", "fresh=maybe"), "fresh='maybe': expected true or false"),
        (("layer=1", "fresh=1"), "fresh=1: expected true or false"),
        (("layer=1", "model.path=null"), "model.path=None: expected a text"),
        (("layer=1", "model.dtype=foo"), "model.dtype='foo': expected one of float32"),
        (("layer=1", "model.device=foo"), "model.device='foo': expected auto, cpu, cuda"),
        (("layer=1", "model.device=cuda:99"), "model.device=cuda:99: this machine has"),
        (
            ("layer=1", "model.attn_implementation=foo"),
            "attn_implementation='foo': expected one of eager, sdpa",
        ),
        (("layer=1", "interpolate=maybe"), "interpolate='maybe': expected true or false"),
        (("layer=1", "selector=boxes"), "selector='boxes': expected one of saliency, random, box"),
        (("layer=1", "method=encode", "interpolate=false"), "source='encode' with interpolate=False"),
        (("layer=1", "positions=beside"), "positions='beside': expected one of append, region"),
        (("method=vanilla", "tau_exp=7"), r"tau_exp=7: expected a number in \[0, 1\]"),
        (("method=vanilla", "layer=99"), "layers .99.; this model has decoder layers 0 to 3"),
        (("layer=1", "bench.splits=[often]"), "choose one or more of adversarial"),
        (("layer=1", "model.template=chatml"), "unknown prompt template 'chatml'"),
        (("layer=1", "+tau=0.5"), "unknown key 'tau'"),
    ],
)
def test_mistakes_are_one_line_before_any_work(
    backbone: str,
    overrides: tuple[str, ...],
    message: str,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a traceback for a user's mistake, and one that is found after the weights are loaded."""
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as caught:
        command(monkeypatch, backbone, *SMALL, "method=interp", *overrides)
    assert "\n" not in str(caught.value)
    assert not (in_empty_folder / "outputs").exists()


def test_unknown_key_is_one_line(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a misspelt key that is ignored."""
    with pytest.raises(SystemExit, match=r"^error: unknown key 'tau_expp' \(did you mean tau_exp"):
        command(monkeypatch, backbone, "tau_expp=0.5")


def test_help_names_the_keys_and_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a help page that lost its template."""
    with pytest.raises(SystemExit):
        command(monkeypatch, "--help")
    shown = capsys.readouterr().out
    assert all(
        word in shown
        for word in ("tau_exp", "method: blink, encode, interp, vanilla, zoom", "--multirun", "Examples")
    )


def test_jobs_are_those_of_hydras_sweeper() -> None:
    """Catches lists taken for sweeps and ranges left unexpanded."""
    assert list(jobs_of(["layer=[1,2],3", "patches=range(2,4)", "seed=1"])) == [
        ["layer=[1,2]", "patches=2", "seed=1"],
        ["layer=[1,2]", "patches=3", "seed=1"],
        ["layer=3", "patches=2", "seed=1"],
        ["layer=3", "patches=3", "seed=1"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("method=vanilla,interp", "--multirun")])
@pytest.mark.parametrize("reuse", ["full", "none"])
def test_a_damaged_backbone_has_no_score(
    reuse: str,
    sweep: tuple[str, ...],
    llava_folder: Path,
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches empty answers that POPE counts as right: a norm of nan gave F1 80."""
    damaged = shutil.copytree(llava_folder, in_empty_folder / "damaged")
    [file] = damaged.glob("*.safetensors")
    weights = load_file(file)
    [norm] = [name for name in weights if name.endswith("model.norm.weight")]
    weights[norm][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    settings = [f"model.path={damaged}", *SMALL, "layer=1", f"engine.reuse={reuse}"]
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, *settings, *(sweep or ["method=vanilla"]))
    said = f"{stopped.value.code}{capsys.readouterr().err}"
    assert "final norm, question" in said
    assert not list(in_empty_folder.rglob("scores.json"))
    assert not list(in_empty_folder.rglob("predictions.jsonl"))
