"""What is asked of a text model, and the sentence that a user reads where it will not do."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

import blink
from blink.model.backbone import Backbone
from blink.model.text_model import check_text_model
from tests import models

COMMON: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def outlined(kind: str, **settings: Any) -> Any:
    """A text model of transformers, without weights."""
    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.for_model(kind, **{**COMMON, **settings}))


@pytest.mark.parametrize("kind", models.TEXT_MODELS)
def test_text_models_that_will_do(kind: str) -> None:
    """Catches a check that asks for more than is needed."""
    check_text_model(outlined(kind, **models.TEXT_MODELS[kind]))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("mistral", {"sliding_window": 16}, "sliding window of 16 tokens.*full attention in every layer"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
            r"sliding_attention in layers \[1\].*full attention in every layer",
        ),
        ("gemma2", {}, "sliding_attention"),
        ("llama4_text", {}, "chunked_attention.*full attention in every layer"),
        ("lfm2", {"block_dim": 64}, "without norm"),
        ("qwen3_next", {}, r"linear_attention in layers \[0, 1\]"),
        ("falcon_h1", {}, "without norm"),
        (
            "gemma3_text",
            {"layer_types": ["full_attention"] * 2, "use_bidirectional_attention": True},
            "both directions",
        ),
        (
            "gemma3_text",
            {"layer_types": ["full_attention"] * 2, "sliding_window": None},
            "rotary embedding per kind of layer",
        ),
        ("deepseek_v3", {"first_k_dense_replace": 2}, "latent attention.*one width"),
        (
            "gemma2",
            {"layer_types": ["full_attention"] * 2, "sliding_window": None},
            "capped at 50.*plain softmax",
        ),
        (
            "gpt_oss",
            {"layer_types": ["full_attention"] * 2, "sliding_window": None, "num_local_experts": 2},
            "layer 0 has attention sinks",
        ),
        ("gpt_neox", {}, "without embed_tokens, norm"),
        ("stablelm", {}, "layer 0 drops keyword arguments"),
        ("diffllama", {}, "attends twice in each layer"),
        ("nanochat", {}, "normalises embeddings before its first layer"),
    ],
)
def test_text_models_that_will_not_do(kind: str, settings: dict[str, Any], message: str) -> None:
    """Catches a model that would answer wrongly in silence, and a message that does not say what was found and why."""
    with pytest.raises(ValueError, match=message) as found:
        check_text_model(outlined(kind, **settings))
    text = str(found.value)
    assert text.startswith(f"the text model is of type {kind!r}")
    assert "Blink" in text
    assert "\n" not in text


def test_attention_in_both_directions_or_to_another_sequence() -> None:
    """Catches layers whose visual tokens depend on the text, and those that look elsewhere."""
    decoder = outlined("llama")
    decoder.layers[1].self_attn.is_causal = False
    with pytest.raises(ValueError, match="layer 1 attends in both directions"):
        check_text_model(decoder)
    decoder = outlined("llama")
    decoder.layers[1].cross_attn = torch.nn.Identity()
    with pytest.raises(ValueError, match="layer 1 attends to another sequence"):
        check_text_model(decoder)
    decoder = outlined("llama")
    decoder.layers[0].self_attn = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"layer 0 attends by Identity.*transformers' table of attention"):
        check_text_model(decoder)
    decoder.layers[0] = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"layer 0 .*has no self_attn"):
        check_text_model(decoder)


def dynamic(fixed: int) -> Any:
    """A small LLaVA whose rotary embeddings change for a batch with more than `fixed` tokens."""
    rotary = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    return models.llava(grid=6, layers=3, rope_parameters=rotary, max_positions=fixed)


def longrope(fixed: int) -> Any:
    """A small LLaVA whose rotary embeddings change beyond `fixed` tokens."""
    rotary = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": fixed,
        "short_factor": [1.0] * 6,
        "long_factor": [3.0] * 6,
    }
    return models.llava(grid=6, layers=3, rope_parameters=rotary)


@pytest.mark.parametrize("make", [longrope, dynamic])
def test_rotary_embeddings_that_depend_on_the_length_serve_up_to_it(make: Any) -> None:
    """Catches a prompt that changes a neighbour's answer by its length, and a model refused whose prompts are short."""
    settings: Any = {"max_new_tokens": 3, "do_sample": False}
    policy = blink.Policy([1], tau_exp=0.0, tau_drop=0.0)
    model = make(200)
    inputs = models.batch(model, [1], words=5)
    handle = blink.attach(model, policy)
    model.generate(**inputs, **settings)
    handle.detach()
    engine = blink.Engine(model, models.processor(model))
    [[answer]] = engine.answer(models.picture(1), [models.prompt(1)], [blink.Run(policy)], max_new_tokens=3)
    assert answer.events[0].action == "expand"
    with pytest.raises(ValueError, match=rf"{make.__name__}.*beyond 200.*depend on its batch"):
        engine.answer(models.picture(1), [models.prompt(1)], [blink.Run(policy)], max_new_tokens=150)

    model = make(60)
    backbone, inputs = Backbone(model), models.batch(model, [1], words=5)
    assert 36 < inputs["input_ids"].shape[1] < 60
    blink.attach(backbone, blink.Policy.never([1])).detach()
    with torch.no_grad():
        model(**inputs)
    blink.attach(model, policy)
    with pytest.raises(ValueError, match=rf"{make.__name__}.*beyond 60"):
        model.generate(**inputs, **settings)
