"""The plan of a training run: flat values of a config, without torch. What it refuses is in tests/test_train.py."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from blink.runs.config.groups import CONF_DIR
from blink.runs.config.settings import plain
from blink.runs.inputs.preset_file import with_preset, write_preset
from blink.runs.values import UserError
from blink.training.checks import HubDataSet
from blink.training.plan import Plan, make_plan
from tests.processes import python
from tests.training.conftest import planned


def test_values_come_from_their_keys() -> None:
    """Would catch a key that is read for another, and layers, paths or widths that keep the form they were typed in."""
    plan = planned(
        "layer=3-4",
        "model=llava15_7b",
        "data.root=['~/a',b.json]",
        "data.cache_features=f",
        "images=7",
        "token_sr.hidden=[8,4]",
        "token_sr.dtype=bfloat16",
        "objective.space=input_norm",
        "optimizer.warmup=0.5",
        "optimizer.weight_decay=0.25",
        "trainer=ddp_cpu",
    )
    assert (plan.layers, plan.backbone, plan.pictures["pad"]) == ((3, 4), "llava-hf/llava-1.5-7b-hf", True)
    assert (plan.roots, plan.data_set) == ((Path.home() / "a", Path("b.json")), None)
    assert (plan.cache_features, plan.images, plan.held_out) == (Path("f"), 7, 64)
    sizes = {"hidden": (8, 4), "kernels": (5, 3, 1), "heads": None}
    assert (plan.kind, plan.sizes, plan.saved_dtype) == ("conv", sizes, "bfloat16")
    assert (plan.normed, plan.warmup, plan.weight_decay) == (True, 0.5, 0.25)
    assert plan.trainer["devices"] == 2
    assert plan.template == "vicuna_v1"


def test_images_have_one_source() -> None:
    """Would catch scenes trained on where a data set was named."""
    hub = planned("layer=1", "data=hub", "data.id=a/b", "data.column=picture")
    assert (hub.roots, hub.data_set) == ((), HubDataSet("a/b", None, "train", "picture"))
    scenes = planned("layer=1")
    assert (scenes.roots, scenes.data_set) == ((), None)


def test_null_follows_the_backbone() -> None:
    """Catches the tiny backbone's rate and temperature on a user's own, and an override that loses to them."""
    tiny = planned("layer=1")
    own = planned("layer=1", "model.path=llava-hf/llava-1.5-7b-hf")
    assert own.learning_rate == own.config["optimizer"]["learning_rate"] == 1e-4
    assert own.temperature == own.config["objective"]["temperature"] == 1.0
    assert tiny.learning_rate != 1e-4
    assert planned("layer=1", "objective.temperature=3.0").temperature == 3.0


def test_a_plan_is_made_without_torch() -> None:
    """Would catch a finished run, and a misspelt value, that wait for torch to be imported."""
    made = python(
        "-c",
        "import sys; from tests.training.conftest import planned; planned('layer=1'); "
        "print([name for name in ('torch', 'transformers', 'lightning') if name in sys.modules])",
    )
    assert made.stdout.strip() == "[]", made.stderr


def planned_under(*overrides: str) -> Plan:
    """The plan of `python -m blink.train` with the values of a preset file."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", list(overrides))
    return make_plan(plain(with_preset(config, overrides), complete=True))


def test_a_preset_gives_its_policy_where_one_is_trained_under(tmp_path: Path) -> None:
    """Would catch a preset that training on KL refuses for a key that the user did not give, and one that answers lose."""
    file = tmp_path / "preset.yaml"
    write_preset(
        file,
        {"layer": [3], "tau_exp": 0.5, "tau_drop": 0.0, "patches": 3, "positions": "region"},
        method="blink",
        note="by hand",
    )
    found = {
        objective: planned_under(f"preset={file}", f"objective={objective}") for objective in ("kl", "answer")
    }
    assert {plan.layers for plan in found.values()} == {(3,)}
    assert (found["kl"].patches, found["kl"].positions) == (2, "append")
    assert (found["answer"].patches, found["answer"].positions) == (3, "region")
    with pytest.raises(UserError, match="positions=region"):
        planned_under(f"preset={file}", "positions=region")
