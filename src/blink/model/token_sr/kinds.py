"""The designs of TokenSR by their names, made from sizes as configs and folders hold them, and what one costs."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from blink.model.token_sr.attention import AttentionTokenSR
from blink.model.token_sr.base import Context, Design, check_not_absurd
from blink.model.token_sr.conditioned import ConditionedTokenSR
from blink.model.token_sr.conv import TokenSR
from blink.model.token_sr.mlp import MlpTokenSR
from blink.model.token_sr.regions import Box
from blink.model.token_sr.residual import ResidualTokenSR
from blink.runs.values import UserError

KINDS: dict[str, type[Design]] = {
    design.kind: design
    for design in (TokenSR, ResidualTokenSR, MlpTokenSR, AttentionTokenSR, ConditionedTokenSR)
}


def design_of(kind: Any) -> type[Design]:
    """The class of a kind.

    Raises:
        ValueError: there is none of that name.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    return KINDS[kind]


def make_token_sr(kind: str, channels: int, sizes: Mapping[str, Any] | None = None) -> Design:
    """Make a fresh module of a design.

    Args:
        sizes: arguments of the design beyond `channels`; those that are None are its own defaults.

    Raises:
        ValueError: there is no such kind, or it has no such size, or the sizes do not fit each other or are absurd.
    """
    design = design_of(kind)
    given = {name: value for name, value in (sizes or {}).items() if value is not None}
    for name in given:
        if name not in design.size_names:
            raise UserError(
                f"{name}={given[name]!r}: kind={kind!r} has no {name}; it takes {', '.join(design.size_names)}"
            )
    check_not_absurd(channels, given)
    return design(channels, **given)


class ModuleCost(NamedTuple):
    """What a design's work on one grid of tokens is.

    Attributes:
        flops: of one call, as `torch.utils.flop_counter` counts them.
        trained_flops: with the backward pass, whose gradient ends at the weights.
        weights: numbers in its matrices and convolutions.
    """

    flops: int
    trained_flops: int
    weights: int


def module_cost(design: Design, tokens: int) -> ModuleCost:
    """Count a design's work on a grid of that many tokens, whatever the grid's shape; nothing is computed."""
    return _cost(design.kind, design.channels, tuple(design.sizes.items()), tokens)


@lru_cache(maxsize=256)
def _cost(kind: str, channels: int, sizes: tuple[tuple[str, Any], ...], tokens: int) -> ModuleCost:
    with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
        design = make_token_sr(kind, channels, dict(sizes))
        grid_1d1V = torch.empty(1, channels, 1, tokens)
        context = Context(grid_1d1V, [Box(0, 0, 1, tokens)], grid_1d1V)
        with FlopCounterMode(display=False) as counter:
            refined = design(grid_1d1V, context)
            flops = counter.get_total_flops()
            refined.sum().backward()
            trained = counter.get_total_flops()
    weights = sum(weight.numel() for weight in design.parameters() if weight.dim() > 1)
    return ModuleCost(flops, trained, weights)
