"""What `--model_args` says becomes a run, or one line that says what is wrong."""

import logging
from pathlib import Path
from typing import Any

import pytest

from blink.evaluation.planning.presets import PRESETS
from blink.inference.policy import Policy
from blink.integrations.harness.arguments import NAMES, read_arguments
from blink.runs.values import UserError


def read(**given: Any) -> Any:
    """The settings of arguments about the tiny backbone."""
    return read_arguments({"pretrained": "tiny", "device": "cpu", **given})


def test_every_policy_key_reaches_the_policy() -> None:
    """Would catch an argument that is taken and has no effect."""
    given: dict[str, Any] = {
        "layers": "8-10",
        "tau_exp": 0.3,
        "tau_drop": 0.2,
        "patches": 3,
        "saliency": "similarity",
        "interpolate": False,
        "selector": "random",
        "schedule": "cycle",
        "positions": "region",
        "scale_tau": False,
        "seed": 7,
    }
    policy = read(method="interp", **given).run.policy
    assert policy == Policy([8, 9, 10], **{key: value for key, value in given.items() if key != "layers"})
    assert read(method="interp", layers=9, source="encode").run.policy == Policy(
        [9], 0.6, 0.4, source="encode"
    )
    assert {*given, "source"} <= {*NAMES}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (9, (9,)),
        ("9", (9,)),
        ("8-10", (8, 9, 10)),
        ("[8,10]", (8, 10)),
        ("'8,10'", (8, 10)),
        ("[8, 10]", (8, 10)),
    ],
)
def test_layers_as_lmms_eval_hands_them_over(layers: Any, expected: tuple[int, ...]) -> None:
    """Would catch a list that a comma would cut in two, and quotes that a shell let through."""
    assert read(layers=layers).run.policy.layers == expected


def test_methods_and_modules() -> None:
    """Would catch a method that takes modules it has no use for, and modules that are lost."""
    assert read(method="vanilla").run == (read(method="vanilla", layers=9).run)
    assert read(method="vanilla").run.policy is None
    assert (
        read().run.token_sr
        == read(token_sr="tiny").run.token_sr
        == read(token_sr="null").run.token_sr
        == "tiny"
    )
    assert read(method="interp").run.token_sr is None
    encode = read(method="encode").run
    assert encode.token_sr is None
    assert encode.policy.source == "encode"


def test_the_preset_that_ships_is_taken_and_what_is_given_wins() -> None:
    """Would catch a preset whose values do not reach the run, and one that beats an argument."""
    found = read(preset="recommended")
    assert found.run.policy.layers == (3,)
    assert found.run.policy.source == "encode"
    assert read(preset="recommended", layers=5, tau_exp=0.7).run.policy.layers == (5,)
    assert read(preset="recommended", tau_exp=0.7).run.policy.tau_exp == 0.7
    assert str(read(preset="gqa").run.policy.layers[0]) == PRESETS["tiny", "gqa"].layers


def test_a_checkpoint_by_its_hub_id_has_the_settings_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch LLaVA-1.5 by its hub id asked with tiny's presets, or with its pictures cropped."""
    from blink.integrations.harness import arguments

    seen: list[dict[str, Any]] = []

    def asked_of(config: Any, settings: dict[str, Any], overrides: Any, **_: Any) -> Any:
        seen.append(settings["model"])
        raise UserError("model.dtype of model.path")

    monkeypatch.setattr(arguments, "asked_of", asked_of)
    for pretrained in ("llava-hf/llava-1.5-7b-hf", "llava15_7b", "owner/other"):
        with pytest.raises(UserError, match=r"^dtype of pretrained$"):
            read_arguments({"pretrained": pretrained, "revision": "abc", "dtype": "torch.float16"})
    by_id, by_name, other = seen
    assert by_id == by_name
    assert (by_id["family"], by_id["pad"], by_id["template"]) == ("llava15_7b", True, "vicuna_v1")
    assert (by_id["revision"], by_id["dtype"]) == ("abc", "float16")
    assert (other["path"], other["pad"], other["template"]) == ("owner/other", None, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tau_ex": 0.5}, "unknown argument 'tau_ex' (did you mean tau_exp?)"),
        ({"pretrained": "tini"}, "pretrained='tini' (did you mean tiny?)"),
        ({"pretrained": 7}, "pretrained=7"),
        ({"pretrained": None}, "pretrained is missing"),
        ({"method": "blnk"}, "method='blnk': expected one of blink"),
        ({"method": "zoom"}, "two passes are for blink.eval"),
        ({"layers": 40}, "this model has decoder layers 0 to 15"),
        ({"layers": 8, "layer": 9}, "layers and layer are the same argument"),
        ({"layers": "x"}, "layers 'x' cannot be read"),
        ({"tau_exp": 2}, "tau_exp=2"),
        ({"dtype": "int4"}, "dtype='int4': expected one of float32"),
        ({"device": "cuda:99"}, "device=cuda:99"),
        ({"attn_implementation": "x"}, "attn_implementation='x'"),
        ({"template": "x"}, "unknown prompt template 'x'"),
        ({"selector": "box"}, "selector=box goes by boxes"),
        ({"source": "x"}, "source='x': expected one of coarse, encode"),
        ({"source": "encode"}, "method=blink expands by token_sr; choose method=encode"),
        ({"preset": "x"}, "preset='x'"),
        ({"memory_gb": 0}, "memory_gb=0"),
        ({"pictures": 0}, "pictures=0"),
        ({"other_requests": "x"}, "other_requests='x': expected one of refuse, stock"),
        ({"until": "x"}, "until='x': expected one of task, end"),
    ],
)
def test_mistakes_are_said_in_one_line(given: dict[str, Any], message: str) -> None:
    """Would catch a misspelt argument that changes nothing, and a message in the words of another command."""
    with pytest.raises(UserError) as caught:
        read(**given)
    assert message in str(caught.value)
    assert "model." not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_vanilla_does_not_read_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Would catch thresholds that a user believes to be in effect."""
    with caplog.at_level(logging.WARNING):
        read(method="vanilla", layers=9, tau_exp=0.5)
    assert "method=vanilla does not use layer, tau_exp" in caplog.text


def test_modules_of_another_backbone_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Would catch scores under modules that were made for other weights, with no word about it."""
    from blink.model.token_sr import TokenSR
    from blink.model.token_sr.files import save_token_sr

    save_token_sr({9: TokenSR(128)}, tmp_path, backbone="owner/another")
    with caplog.at_level(logging.WARNING):
        read(layers=9, token_sr=str(tmp_path))
    assert "were trained on the backbone owner/another" in caplog.text
