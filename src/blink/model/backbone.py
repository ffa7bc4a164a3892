"""One vision-language model of Hugging Face, taken apart: its sizes, its parts, one decoder layer at a time.

Knows how transformers runs a decoder; what differs between the multimodal classes is in `families/`. It knows nothing of
policies or extensions.

Axes: B samples, S columns of a prompt, N columns at one layer, M columns of keys, V = H x W visual tokens of the base
view, C axes of positions, A query heads, K key heads, E width of one head, d hidden width.
"""

import inspect
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from blink.model.dimensions import attention_widths
from blink.model.families import Grid, family_of
from blink.model.fingerprint import Fingerprint
from blink.model.text_model import check_text_model, fixed_rotary_length
from blink.runs.values import UserError

OLD_CACHE = "past_key_values"
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else OLD_CACHE
"""What models call the cache that they take and return: `cache` from transformers 5.24 on, which deprecates the old name."""


HOOK = "attention_hook"
"""Keyword argument of a decoder layer that reaches its attention function."""


class Past(Protocol):
    """The part of a KV cache that attention layers call."""

    def update(self, keys: Tensor, values: Tensor, layer: int, /, **_: Any) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values [B, K, N, E]; return all that its queries attend to [B, K, M, E].

        transformers 5.24 adds the layer's keyword arguments, which only some kinds of cache need.
        """
        ...


class Frame(NamedTuple):
    """Arguments that all decoder layers share: mask as their attention expects it, cosine and sine of the positions.

    Position ids themselves do not go along: layers read the cosine and sine, and flash attention would take ids that do
    not count up by one for several sequences in a row.
    """

    mask: Any
    rotary: tuple[Tensor, Tensor]

    def to(self, device: torch.device) -> "Frame":
        """The same on a device."""
        mask = self.mask.to(device) if isinstance(self.mask, Tensor) else self.mask
        cos, sin = self.rotary
        return Frame(mask, (cos.to(device), sin.to(device)))


class TokenBytes(NamedTuple):
    """Estimated bytes of one token: `kept` in the KV cache of all layers, `passing` as activations of one layer."""

    kept: int
    passing: int


class Backbone:
    """A model with its processor and where both come from; methods read the model and never change it.

    Args:
        model: a model of one of the `families`, or what torch.compile made of one.
        processor: its processor, if one is at hand.
        name: folder or hub id that it comes from, as given by the user.
        revision: its commit on the hub; None for a folder.

    Attributes:
        model, processor, name, revision: as above.
        family: how models of this class place a picture in a prompt.
        grid: (H, W) of the base view's visual tokens; None where it depends on the picture.
        num_layers, hidden_size: of the decoder.
        is_spread: whether the model lies on several devices, each decoder layer as a whole on one of them.
        image_token_id: id of the tokens that stand for visual tokens in a prompt.

    Raises:
        ValueError: for a model of another class, a text model that will not do (`text_model.py`), or a layer on several devices.
    """

    def __init__(
        self, model: Any, processor: Any = None, *, name: str = "", revision: str | None = None
    ) -> None:
        model = getattr(model, "_orig_mod", model)  # of what torch.compile returns
        self.family = family_of(model)
        self.model = model
        self.processor = processor
        self.name = name
        self.revision = revision
        self.core = self.family.core
        self.decoder = self.family.decoder
        check_text_model(self.decoder)
        self.is_spread = len({weight.device for weight in self.model.parameters()}) > 1
        if self.is_spread:
            self._check_devices()
        self.hidden_size: int = self.decoder.config.hidden_size
        self.num_layers = len(self.decoder.layers)
        self.image_token_id = self.family.image_token_id
        self.grid: Grid | None = self.family.grid

    @classmethod
    def of(cls, model: Any, processor: Any = None) -> "Backbone":
        """The backbone of a model, or the one given, with `processor` if one is given."""
        if not isinstance(model, cls):
            return cls(model, processor)
        if processor is None or processor is model.processor:
            return model
        return cls(model.model, processor, name=model.name, revision=model.revision)

    @property
    def fingerprint(self) -> Fingerprint:
        """Hashes that tell this checkpoint from another, of its files as they are when asked for."""
        assert self.name, "a model that was not loaded by name has no files"
        return Fingerprint(self.name, self.revision)

    @property
    def dtype(self) -> torch.dtype:
        """Of the decoder's hidden states."""
        return self.decoder.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Of the decoder's embeddings, where a prompt begins."""
        return self.decoder.embed_tokens.weight.device

    def device_of(self, layer: int) -> torch.device:
        """Of a decoder layer."""
        if not self.is_spread:
            return self.device
        device: torch.device = next(self.decoder.layers[layer].parameters()).device
        return device

    def _check_devices(self) -> None:
        """Raise ValueError where a decoder layer does not lie on one device."""
        for layer, module in enumerate(self.decoder.layers):
            devices = sorted({str(weight.device) for weight in module.parameters()} - {"meta"})
            if len(devices) > 1:
                raise UserError(
                    f"decoder layer {layer} lies on several devices ({', '.join(devices)}); Blink needs each layer whole: "
                    "load the model with device_map='auto', which keeps layers together"
                )

    def check_weights(self) -> None:
        """Raise ValueError if the model is an outline, or its weights lie elsewhere and come and go with each module.

        On the meta device everything computes, and nothing is computed: what runs there gives garbage in silence.
        """
        tensors = (*self.model.named_parameters(), *self.model.named_buffers())
        on_meta = [name for name, tensor in tensors if tensor.is_meta]
        if on_meta:
            raise UserError(
                f"{len(on_meta)} weights of the model are on the meta device, {on_meta[0]} among them, as an offloaded "
                "model has them (accelerate.cpu_offload, a device_map with 'cpu' or 'disk'); Blink needs them in memory: "
                "load the model onto one device"
            )

    def check_layer(self, layer: int) -> None:
        """Raise ValueError if this model has no such layer (it may have been loaded without)."""
        if not 0 <= layer < self.num_layers:
            raise UserError(
                f"layer {layer} is not loaded; this model has decoder layers 0 to {self.num_layers - 1}"
            )

    def input_norm(self, layer: int) -> nn.Module:
        """The norm that a decoder layer applies to what enters it.

        Raises:
            ValueError: if this model has no such layer, or its layers have no such norm (OLMo 2 has norms behind only).
        """
        self.check_layer(layer)
        norm: nn.Module | None = getattr(self.decoder.layers[layer], "input_layernorm", None)
        if norm is None:
            raise UserError(
                f"layer {layer} of the text model ({self.decoder.config.model_type!r}) has no input_layernorm, no norm "
                "of what enters it"
            )
        return norm

    def check_projections(self, layer: int) -> None:
        """Raise ValueError unless a layer has the norm and linear projections that saliency by "similarity" applies."""
        block = self.decoder.layers[layer]
        places = {"input_layernorm": block, "q_proj": block.self_attn, "k_proj": block.self_attn}
        missing = [name for name, place in places.items() if not hasattr(place, name)]
        if missing:
            raise UserError(
                f"saliency='similarity' needs {', '.join(places)} in a scanned layer, and layer {layer} of the text model "
                f"({self.decoder.config.model_type!r}) has no {', no '.join(missing)}; use saliency='attention'"
            )

    def frame(
        self, hidden_BNd: Tensor, valid_BM: Tensor | None, position_CBN: Tensor, past: int = 0
    ) -> Frame:
        """Make mask and rotary embedding for N new tokens after `past` columns of cached keys.

        The mask comes from transformers, so each attention implementation gets what it expects: nothing, a 2-D
        padding mask (flash), booleans (sdpa) or numbers to add (eager).

        Args:
            hidden_BNd: the new tokens, of which only shape, dtype and device are read.
            valid_BM: bool over past and new columns, False at padding; None if there is none.
            position_CBN: of the new tokens, [C, 1, N] or [C, B, N].
        """
        mask = create_causal_mask(
            config=self.decoder.config,
            inputs_embeds=hidden_BNd,
            attention_mask=valid_BM,
            **{CACHE: _PastColumns(past)},
        )
        return Frame(mask, self.rotary(position_CBN))

    def run_layer(
        self, layer: int, hidden_BNd: Tensor, frame: Frame, past: Past | None, hook: Any = None
    ) -> Tensor:
        """Run one stock decoder layer on N tokens: [B, N, d].

        Args:
            past: KV cache, which stores the new keys and values; None: only the N tokens attend to each other.
            hook: goes to the layer's attention function (`inference/attention.py`), inside `hooks_enabled`.
        """
        if self.is_spread:
            device = self.device_of(layer)
            hidden_BNd, frame = hidden_BNd.to(device), frame.to(device)
        extra = {} if hook is None else {HOOK: hook}
        hidden: Tensor = self.decoder.layers[layer](
            hidden_BNd,
            attention_mask=frame.mask,
            position_ids=None,
            use_cache=past is not None,
            position_embeddings=frame.rotary,
            **{CACHE: past},
            **extra,
        )
        return hidden

    @property
    def checkpoints_activations(self) -> bool:
        """Whether the decoder's layers are in training and recompute their activations in the backward pass."""
        layers = self.decoder.layers
        return any(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in layers)

    @cached_property
    def attention_configs(self) -> list[Any]:
        """The configs that name the attention implementation of the decoder's layers, each once."""
        parts = (self.decoder, *(child for layer in self.decoder.layers for child in layer.children()))
        return list({id(part.config): part.config for part in parts if hasattr(part, "config")}.values())

    def final_norm(self, hidden_BNd: Tensor) -> Tensor:
        """The norm after the last decoder layer."""
        if self.is_spread:
            hidden_BNd = hidden_BNd.to(self.decoder.norm.weight.device)
        normed: Tensor = self.decoder.norm(hidden_BNd)
        return normed

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings of token ids as they enter layer 0, d as the last axis."""
        embedded: Tensor = self.decoder.embed_tokens(ids)
        return self.entering(embedded)

    def entering(self, embedded: Tensor) -> Tensor:
        """What enters layer 0 of embeddings, or of visual tokens: Granite scales both."""
        factor = getattr(self.decoder, "embedding_multiplier", None)
        return embedded if factor is None else embedded * factor

    def rotary(self, position_CBN: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary embedding at [C, B, N] positions, each [B, N, E]."""
        self._check_positions(position_CBN)
        like = torch.empty(0, dtype=self.dtype, device=position_CBN.device)
        ids = position_CBN if self.family.axes > 1 else position_CBN[0]
        rotary: tuple[Tensor, Tensor] = self.decoder.rotary_emb(like, position_ids=ids)
        return rotary

    def logits(self, normed_Bd: Tensor) -> Tensor:
        """The language modelling head on normed states [B, d]: [B, vocabulary]."""
        if self.is_spread:
            normed_Bd = normed_Bd.to(self.model.lm_head.weight.device)
        logits: Tensor = self.model.lm_head(normed_Bd)
        return logits

    def token_bytes(self, keys: int) -> TokenBytes:
        """Memory of one token that attends to `keys` columns, estimated from the widths that the config names."""
        config, size = self.decoder.config, self.dtype.itemsize
        heads, key_heads, head = attention_widths(config)
        wide = 3 * config.intermediate_size + 4 * (self.hidden_size + (heads + key_heads) * head)
        scores = heads * keys * (4 + 2 * size)
        return TokenBytes(kept=2 * key_heads * head * self.num_layers * size, passing=wide * size + scores)

    def query(self, layer: int, normed_Bd: Tensor) -> Tensor:
        """Linear query projection of one normed token per sample: [B, A, E]."""
        projected: Tensor = self.decoder.layers[layer].self_attn.q_proj(normed_Bd)
        return projected.unflatten(-1, (-1, attention_widths(self.decoder.config).head))

    def keys(self, layer: int, normed_BNd: Tensor) -> Tensor:
        """Linear key projection of normed tokens: [B, K, N, E]."""
        projected: Tensor = self.decoder.layers[layer].self_attn.k_proj(normed_BNd)
        return projected.unflatten(-1, (-1, attention_widths(self.decoder.config).head)).transpose(1, 2)

    def _check_positions(self, position_CBN: Tensor) -> None:
        """Raise ValueError where a rotary embedding would change for all tokens, those before them included."""
        fixed = fixed_rotary_length(self.decoder.config)
        if fixed is not None and position_CBN.numel() and (last := int(position_CBN.max())) >= fixed:
            kind = self.decoder.config.rope_parameters["rope_type"]
            raise UserError(
                f'the sequence has {last + 1} tokens, and rotary embeddings of type "{kind}" change for all of them beyond '
                f"{fixed} (the length that the text model was trained for), so that a prompt would depend on its batch; "
                "use a shorter one"
            )


class _PastColumns:
    """Stands in for a cache of so many columns in transformers' mask builder, which reads only its sizes."""

    is_compileable = False

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.columns

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.columns + query_length, 0
