"""What of transformers' `forward` and `generate` works with an attached model; the rest is refused by name.

Every function returns quietly or raises a ValueError that says what was found, what is expected and what to do.

Axes: B rows, S columns of the input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationConfig, GenerationMode

from blink.inference.cache import BlinkCache
from blink.model.backbone import CACHE
from blink.runs.values import UserError

MODES = (
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
)

REMEDY = "change that, or run it inside handle.disabled()"


def check_generation(config: GenerationConfig, arguments: dict[str, Any]) -> None:
    """Refuse what `generate` would do wrongly with extensions in place.

    Args:
        config: as `generate` resolves it from all its sources.
        arguments: of the call, by name.
    """
    mode = config.get_generation_mode(arguments.get("assistant_model"))
    refused = {
        "use_cache=False": config.use_cache is False,
        f"cache_implementation={config.cache_implementation!r}": (
            config.cache_implementation not in (None, "dynamic")
        ),
        f"generation mode {mode.value!r}": mode not in MODES,
        "chunked prefill (prefill_chunk_size)": config.prefill_chunk_size is not None,
        "output_attentions=True": bool(config.output_attentions),
        "classifier-free guidance (guidance_scale)": config.guidance_scale not in (None, 1),
        "inputs_embeds": arguments.get("inputs_embeds") is not None,
    }
    found = [name for name, is_found in refused.items() if is_found]
    if found:
        raise UserError(
            f"generate was asked for {', '.join(found)}, which Blink does not support: expected input_ids, a dynamic "
            f"cache, and greedy search, sampling or beams; {REMEDY}"
        )
    check_empty_cache(arguments.get(CACHE))


def check_padding(valid: Sequence[Sequence[bool]]) -> None:
    """Refuse prompts of `generate` that are padded on the right.

    Args:
        valid: of each prompt's columns, whether they are no padding: by the caller's mask, or by that which `generate` makes
            of padding tokens where it is given none.
    """
    padded = [row for row, seen in enumerate(valid) if not seen[-1]]
    if padded:
        raise UserError(
            f"row {padded[0]} of attention_mask is padded on the right, where generate puts the answer; pad on the "
            "left (processor.tokenizer.padding_side = 'left')"
        )


def check_empty_cache(cache: Any) -> None:
    """Refuse a cache that a prompt cannot start from: only none, or an empty dynamic one, will do.

    `generate` gets one of ours in place of the latter.
    """
    if cache is None:
        return
    if type(cache) not in (DynamicCache, BlinkCache) or cache.offloading:
        raise UserError(
            f"{CACHE} is a {type(cache).__name__}; Blink keeps keys of different lengths per layer, which only "
            f"its own cache can: leave {CACHE} out, {REMEDY}"
        )
    if cache.get_seq_length():
        raise UserError(
            f"{CACHE} holds {cache.get_seq_length()} tokens at the prompt; Blink takes its actions on a whole "
            f"prompt: pass all of it at once, without {CACHE}, {REMEDY}"
        )


def check_prompt(inputs: dict[str, Any]) -> Tensor | None:
    """Refuse arguments of a prompt's forward that Blink cannot honour.

    Args:
        inputs: arguments of the forward, by name.

    Returns:
        The attention mask, or None without one.
    """
    cache = inputs.get(CACHE)
    check_empty_cache(cache)
    if cache is not None and not isinstance(cache, BlinkCache):
        raise UserError(
            f"{CACHE} is an empty {type(cache).__name__}, which Blink cannot fill: leave {CACHE} out and "
            "use the returned one, or call `generate` as an attribute of the attached model (taken from it earlier it "
            f"brings such a cache); {REMEDY}"
        )
    check_outputs(inputs)
    ids_BS = inputs.get("input_ids")
    if ids_BS is None:
        raise UserError(
            "the prompt has no input_ids; Blink finds the image's place by its token id, so inputs_embeds alone will "
            f"not do: pass input_ids with pixel_values, {REMEDY}"
        )
    B, S = ids_BS.shape
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids_BS.shape):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UserError(
            f"attention_mask is {shape}; expected [{B}, {S}] as input_ids, 1 for tokens and 0 for padding"
        )
    return None if mask is None else mask.to(ids_BS.device)


def check_step(cache: BlinkCache, hidden_BNd: Tensor, inputs: dict[str, Any], axes: int) -> None:
    """Refuse new tokens that do not simply follow what the cache holds, row by row."""
    check_outputs(inputs)
    B, N = hidden_BNd.shape[:2]
    if len(cache.events) != B:
        raise UserError(f"{B} rows of new tokens and {CACHE} of {len(cache.events)} rows; expected as many")
    valid_BS, length = cache.valid_BS, cache.get_seq_length() + N
    mask = inputs.get("attention_mask")
    if mask is not None:
        expected = torch.ones(B, length, dtype=torch.bool, device=mask.device)
        if valid_BS is not None:
            expected[:, : cache.input_length] = valid_BS.to(mask.device)
        if mask.shape != expected.shape or not torch.equal(mask != 0, expected):
            raise UserError(
                f"attention_mask {list(mask.shape)} does not continue the prompt's: expected [{B}, {length}], the "
                "prompt's own mask with a one for every token since"
            )
    check_positions(inputs.get("position_ids"), cache.stock_positions(N).expand(axes, -1, -1), None)


def check_no_image(inputs: dict[str, Any]) -> None:
    """Refuse an image behind a prompt whose actions are taken."""
    if (
        inputs.get("pixel_values") is not None
        or (inputs.get("mm_encoder_outputs") or {}).get("image") is not None
    ):
        raise UserError(
            f"an image comes with {CACHE} that hold a prompt already; Blink takes exactly one image per sample, "
            f"in the prompt: start anew without {CACHE}, {REMEDY}"
        )


def check_outputs(inputs: dict[str, Any]) -> None:
    """Refuse outputs that do not exist here."""
    if inputs.get("output_attentions"):
        raise UserError(
            "output_attentions=True asks for full attention maps, which are never formed and whose size differs "
            f"between layers; {REMEDY}"
        )
    wanted = inputs.get("output_hidden_states")
    if wanted is not None and not isinstance(wanted, bool):
        raise UserError(f"output_hidden_states={wanted!r}; with Blink attached it is True or False")


def check_positions(given: Tensor | None, expected_CBN: Tensor, valid_BN: Tensor | None) -> None:
    """Refuse position ids other than those that the stock model derives from its inputs; padding may have any.

    Args:
        given: [B, N], or [C, B, N]; stock `generate` puts those of a plain text before M-RoPE's: [4, B, N].
        expected_CBN: [C, 1, N] if rows do not differ.
    """
    if given is None:
        return
    C, _, N = expected_CBN.shape
    given_CBN = given[None] if given.dim() == 2 else given[1:] if len(given) == C + 1 else given
    fits = given_CBN.dim() == 3 and given_CBN.shape[0] in (1, C) and given_CBN.shape[2] == N
    if fits:
        differs_CBN = given_CBN.to(expected_CBN.device) != expected_CBN
        fits = not bool((differs_CBN if valid_BN is None else differs_CBN & valid_BN).any())
    if not fits:
        raise UserError(
            f"position_ids {list(given.shape)} are not those that the model derives from attention_mask and pictures (for "
            "most families 0 .. n-1 over the tokens of each row, padding left out); Blink sets positions per layer: leave "
            "position_ids out"
        )
