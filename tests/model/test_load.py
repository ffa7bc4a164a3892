"""`blink.load`: what it takes, and what it says of names that it does not know."""

from pathlib import Path
from typing import Any

import pytest
import torch

import blink
from blink.model import load as loading
from tests import models


def test_load_gives_a_pair_that_answers() -> None:
    """Catches a model and a processor that do not fit each other, that need a network, or that lack a conversation template."""
    model, processor = blink.load("tiny", device="cpu")
    handle = blink.attach(model, blink.Policy([10], tau_exp=0.0, tau_drop=0.0), token_sr="tiny")
    turn = {
        "role": "user",
        "content": [{"type": "image", "image": models.picture(1)}, {"type": "text", "text": "Is it red?"}],
    }
    inputs = processor.apply_chat_template(
        [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]
    assert handle.trace[0][0].action == "expand"
    assert model.dtype == torch.float32
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_the_tiny_backbones_own_template_is_that_of_the_commands() -> None:
    """Catches two prompts of one backbone: that of `apply_chat_template`, and that of `blink.eval`."""
    from blink.model.processors import load_processor
    from blink.model.prompts import TEMPLATES, template_of

    processor = load_processor("tiny")
    chat = template_of(processor, "chat")
    assert template_of(processor) == TEMPLATES["vicuna_v1"]
    assert chat.prompt("Is it red?") == TEMPLATES["vicuna_v1"].prompt("Is it red?")
    answered = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it red?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "No"}]},
        {"role": "user", "content": "And blue?"},
    ]
    written = processor.apply_chat_template(answered, add_generation_prompt=True)
    assert written == f"{chat.prompt('Is it red?')} No</s> USER: And blue? ASSISTANT:"


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_a_folder_in_a_dtype(llava_folder: Path, dtype: str | torch.dtype) -> None:
    """Catches a torch dtype that is refused because commands give names."""
    model, _ = blink.load(llava_folder, dtype=dtype, device="cpu")
    assert model.dtype == torch.bfloat16


def test_a_name_of_the_commands_brings_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches `llava15_7b` taken for a folder, or loaded without the padding of the commands; a hub id keeps its own."""
    asked: list[tuple[str, dict[str, Any]]] = []

    class StoppedError(Exception):
        pass

    def noted(path: str, **settings: Any) -> None:
        asked.append((path, settings))
        raise StoppedError

    monkeypatch.setattr(loading, "load_backbone", noted)
    for name, given in (
        ("llava15_7b", {"revision": "v1"}),
        ("qwen25_vl_3b", {"dtype": "float16"}),
        ("llava-hf/llava-1.5-7b-hf", {}),
    ):
        with pytest.raises(StoppedError):
            blink.load(name, device="cpu", **given)
    (path, llava), (_, qwen), (hub, own) = asked
    assert (path, llava["revision"], llava["pad"]) == ("llava-hf/llava-1.5-7b-hf", "v1", True)
    assert llava["dtype"] in ("bfloat16", "float32")
    assert (qwen["dtype"], qwen["pad"]) == ("float16", None)
    assert (hub, own["dtype"], own["pad"]) == ("llava-hf/llava-1.5-7b-hf", "auto", None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("llava15_7c", r"did you mean llava15_7b\?.*a hub id \(owner/name\), or one of .*tiny"),
        (12, "name_or_path=12: expected a folder, a hub id or a name"),
        ("", "name_or_path=''"),
        ("nobody/nothing", "no backbone at 'nobody/nothing'"),
        ("/no/where", r"no backbone at '/no/where': there is no such folder; expected one, or a hub id"),
    ],
)
def test_names_of_nothing(name: Any, says: str) -> None:
    """Catches a stack of errors of a hub client for a misspelt name."""
    with pytest.raises(ValueError, match=says):
        blink.load(name)


def test_a_folder_called_like_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a user's own folder `tiny` that cannot be loaded, or is loaded in place of what ships."""
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"no backbone at '{tmp_path}/tiny'"):
        blink.load("./tiny")
    assert blink.load("tiny", device="cpu")[0].config.text_config.num_hidden_layers == 16
