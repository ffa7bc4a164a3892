"""What a backbone's text model must be, so that its layers can be run one by one and scan themselves.

Blink knows no list of architectures: it asks for full causal attention through transformers' attention interface in
every layer, with rotary embeddings that do not depend on the length. Everything else of a layer is its own business.
"""

import dis
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from blink.runs.values import UserError

PARTS = ("embed_tokens", "layers", "norm", "rotary_emb")
"""Of the text model: the stages of its forward, in this order, but that `rotary_emb` comes before `layers`."""


UNLIKE = {
    "nanochat": "normalises embeddings before its first layer",
    "diffllama": "attends twice in each layer",
    "doge": "masks columns by their values, inside its layers",
}
"""Text models of transformers that pass all checks below and yet compute something else than layer after layer."""

EAGER = "eager_attention_forward"


def check_text_model(decoder: Any) -> None:
    """Raise ValueError, in one line that names what was found and why it will not do, unless Blink can run the layers."""
    for found in _mismatches(decoder):
        raise UserError(f"the text model is of type {decoder.config.model_type!r} {found}")


def eager_attention(kind: Any) -> Callable[..., Any] | None:
    """The eager function that attention modules of a class give to transformers' attention interface; None without."""
    forward: Any = inspect.unwrap(kind.forward)
    if {"ALL_ATTENTION_FUNCTIONS", EAGER} <= set(forward.__code__.co_names):
        function: Callable[..., Any] = forward.__globals__[EAGER]
        return function
    return None


def passes_on_keywords(kind: Any) -> bool:
    """Whether a class's forward takes any keyword arguments and reads them, as it must to hand them on."""
    code = inspect.unwrap(kind.forward).__code__
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return False
    name = code.co_varnames[
        code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    ]
    read = [step.argval for step in dis.get_instructions(code) if step.opname.startswith("LOAD_FAST")]
    return any(name == one or (isinstance(one, tuple) and name in one) for one in read)


def fixed_rotary_length(config: Any) -> int | None:
    """Tokens up to which rotary embeddings keep their frequencies: beyond, those of all tokens change; None: always."""
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") == "longrope":
        length: int = rotary["original_max_position_embeddings"]
        return length
    return config.max_position_embeddings if rotary.get("rope_type") == "dynamic" else None


def _mismatches(decoder: Any) -> Iterator[str]:
    """What is wrong with a text model, as it follows its name; nothing for one that will do."""
    config = decoder.config
    missing = [part for part in PARTS if not hasattr(decoder, part)]
    if missing:
        yield f"without {', '.join(missing)}; Blink runs {', '.join(PARTS)} itself, one layer after the other"
    if config.model_type in UNLIKE:
        yield f"and {UNLIKE[config.model_type]}; Blink runs embeddings, layers and norm as most text models do"
    yield from _attention_of_config(config)
    if getattr(decoder, "_is_stateful", False):
        yield "whose layers keep a running state (linear or hybrid attention); Blink needs attention in every layer"
    read: set[Any] = set()  # layers share their code
    for number, layer in enumerate(decoder.layers):
        yield from (f"whose layer {number} {found}" for found in _attention_of_layer(layer))
        if (code := (type(layer), type(layer.self_attn))) not in read:
            yield from (f"whose layer {number} {found}" for found in _calls_of_layer(layer))
            read.add(code)
    yield from _rotary(config)


def _attention_of_config(config: Any) -> Iterator[str]:
    """What a config says of attention that is not full and causal."""
    if (both := getattr(config, "use_bidirectional_attention", None)) or config.is_encoder_decoder:
        yield (
            f"with attention in both directions ({both or 'encoder and decoder'}); Blink needs causal attention, in "
            "which visual tokens do not depend on the text"
        )
    kinds = getattr(config, "layer_types", None) or ()
    other = [layer for layer, kind in enumerate(kinds) if kind != "full_attention"]
    if other:
        named = ", ".join(sorted({kinds[layer] for layer in other}))
        yield f"with {named} in layers {other}; Blink needs full attention in every layer"
    if (window := getattr(config, "sliding_window", None)) is not None:
        yield (
            f"with a sliding window of {window} tokens; Blink needs full attention in every layer (sliding_window=None)"
        )
    if (chunk := getattr(config, "attention_chunk_size", None)) is not None:
        yield f"with attention in chunks of {chunk} tokens; Blink needs full attention in every layer"
    if (cap := getattr(config, "attn_logit_softcapping", None)) is not None:
        yield f"with attention scores capped at {cap}; Blink's scan needs a plain softmax of scaled scores"
    if (latent := getattr(config, "kv_lora_rank", None)) is not None:
        yield f"with latent attention (kv_lora_rank={latent}); Blink needs keys and values of one width"


def _attention_of_layer(layer: Any) -> Iterator[str]:
    """What a layer has, or lacks, that keeps a scan out of its attention."""
    attention = getattr(layer, "self_attn", None)
    if attention is None:
        yield f"({type(layer).__name__}) has no self_attn; Blink needs self-attention in every layer"
        return
    crossing = [name for name, _ in layer.named_children() if "cross" in name or "encoder_attn" in name]
    if crossing:
        yield f"attends to another sequence ({crossing[0]}); Blink needs self-attention alone"
    if getattr(attention, "is_causal", True) is False:
        yield "attends in both directions (is_causal=False); Blink needs causal attention"
    if getattr(attention, "sinks", None) is not None:
        yield "has attention sinks; Blink's scan needs a softmax over tokens alone"


def _calls_of_layer(layer: Any) -> Iterator[str]:
    """What is wrong with the code of a layer and its attention, apart from their numbers."""
    attention = layer.self_attn
    if eager_attention(type(attention)) is None:
        yield (
            f"attends by {type(attention).__name__}, which does without {EAGER} and transformers' table of attention "
            "functions; Blink scans from there"
        )
    elif not all(passes_on_keywords(type(part)) for part in (layer, attention)):
        yield "drops keyword arguments on their way to its attention function; Blink's scan travels with them"


def _rotary(config: Any) -> Iterator[str]:
    """What is wrong with the rotary embedding: the same token has to get the same one in every batch."""
    rotary = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in rotary.values()):
        yield f"with a rotary embedding per kind of layer ({', '.join(rotary)}); Blink needs one for all layers"
