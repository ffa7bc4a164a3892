"""Calls side by side on a CPU: each in a thread of its own, with a share of torch's threads.

Where several cores share every operation of a small model, they wait for each other at its end, and read what another has
just written. Calls that share no tensors but the weights do neither.
"""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from torch.nn.modules import module as torch_module

from blink.model.backbone import Backbone

T = TypeVar("T")

LANES = 2
"""Calls at once. Python runs in one thread at a time: the more there are, the longer they wait for it."""

_MOST_BYTES = 16 * 2**20
"""Of a layer's weights: larger ones every call would read from memory, and larger operations gain nothing."""


def lanes(backbone: Backbone) -> int:
    """How many calls that run layers are quicker side by side than one after the other; 1: none, or they may not."""
    layers = backbone.decoder.layers
    devices = {backbone.device_of(layer).type for layer in range(backbone.num_layers)}
    if devices != {"cpu"} or torch.get_num_threads() % LANES:
        return 1
    small = sum(weights.nbytes for weights in layers[0].parameters()) <= _MOST_BYTES
    return LANES if small and not _bound_to_thread() and not _watched(backbone) else 1


def side_by_side(backbone: Backbone, calls: Sequence[Callable[[], T]]) -> list[Callable[[], T]]:
    """Run calls that run layers of a backbone, in inference mode, and change nothing that another of them reads.

    Returns:
        For each call what gives its result, or raises its error. Where there is a single one, or they may not run in other
        threads, it is the call itself.
    """
    if not 1 < len(calls) <= lanes(backbone):
        return list(calls)
    threads = torch.get_num_threads()
    share = threads // len(calls)
    futures = [_threads().submit(copy_context().run, partial(_in_thread, call, share)) for call in calls]
    try:
        wait(futures)
    finally:
        wait(futures)  # after Ctrl-C, too, none is left that goes on behind the caller's back
        torch.set_num_threads(threads)  # threads begin with what was set last, in whatever thread
    return [future.result for future in futures]


@lru_cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LANES, "blink-lane")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has none of its parent's threads


@torch.inference_mode()
def _in_thread(call: Callable[[], T], threads: int) -> T:
    torch.set_num_threads(threads)
    return call()


def _bound_to_thread() -> bool:
    """Whether something has been set in this thread that others would run without: autocast, a mode of torch's (a default
    device, a counter of FLOPs), or a profiler."""
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch.autograd._profiler_enabled()
        or sys.getprofile()
        or sys.gettrace()
    )


def _watched(backbone: Backbone) -> bool:
    """Whether layers call or are somebody else's code, which may expect one call at a time: hooks, patches, compilers."""
    return torch_module._has_any_global_hook() or any(
        part._compiled_call_impl is not None
        or "forward" in vars(part)
        or any(map(_of_others, (*part._forward_hooks.values(), *part._forward_pre_hooks.values())))
        for layer in backbone.decoder.layers
        for part in layer.modules()
    )


def _of_others(hook: Callable[..., Any]) -> bool:
    """Whether a hook is none of transformers', which record hidden states inside a model's own forward alone, and stay."""
    return not str(getattr(hook, "__module__", "")).startswith("transformers.")
