"""Calls side by side on a CPU: each in a thread of its own, with a share of torch's threads.

Where several cores share every operation of a small model, they wait for each other at its end, and read what another has
just written. Calls that share no tensors but the weights do neither.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from blink.model.backbone import Backbone

T = TypeVar("T")

LANES = 2
"""Calls at once. Python runs in one thread at a time: the more there are, the longer they wait for it."""

_NAME = "blink-lane"
"""With which the names of the threads begin."""

_MOST_BYTES = 16 * 2**20
"""Of a layer's weights: larger ones every call would read from memory, and larger operations gain nothing."""

_FEWEST_PRODUCTS = 200_000_000
"""With a layer's weights in a call: with fewer, what Python does between operations is too large a part of it."""

_KNOWN = ("torch.", "transformers.", "blink.")
"""Where classes are defined that keep nothing between calls."""


def lanes(backbone: Backbone, modules: Iterable[nn.Module], tokens: int) -> int:
    """How many calls that run layers are quicker side by side than one after the other; 1: none, or they may not.

    Args:
        modules: that the calls run beside those of the backbone.
        tokens: that they run in all.
    """
    weights = list(backbone.decoder.layers[0].parameters())
    products = tokens * sum(weight.numel() for weight in weights)
    small = sum(weight.nbytes for weight in weights) <= _MOST_BYTES
    worth = small and products >= LANES * _FEWEST_PRODUCTS
    return LANES if worth and _may(backbone, modules) else 1


def side_by_side(
    backbone: Backbone, modules: Iterable[nn.Module], calls: Sequence[Callable[[], T]]
) -> list[Callable[[], T]]:
    """Run calls that run layers of a backbone, in inference mode, and change nothing that another of them reads.

    Args:
        modules: that the calls run beside those of the backbone.

    Returns:
        For each call what gives its result, once, or raises its error. Where there is a single one, or they may not run in
        other threads, it is the call itself.
    """
    if len(calls) == 1 or not _may(backbone, modules):
        return list(calls)
    threads = torch.get_num_threads()
    share = threads // len(calls)
    futures = [_threads().submit(copy_context().run, partial(_in_thread, call, share)) for call in calls]
    try:
        wait(futures)
    finally:
        wait(futures)  # after Ctrl-C, too, none is left that goes on behind the caller's back
        torch.set_num_threads(threads)  # threads begin with what was set last, in whatever thread
    return [partial(_told, [future]) for future in futures]


def _told(one: list[Future[T]]) -> T:
    """The result of a future, which is taken out: its error would keep the frames, which keep the future."""
    return one.pop().result()


@lru_cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LANES, _NAME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has none of its parent's threads


@torch.inference_mode()
def _in_thread(call: Callable[[], T], threads: int) -> T:
    torch.set_num_threads(threads)
    return call()


def _may(backbone: Backbone, modules: Iterable[nn.Module]) -> bool:
    """Whether calls may run side by side, each with as many threads of torch's as the others."""
    devices = {backbone.device_of(layer).type for layer in range(backbone.num_layers)}
    if devices != {"cpu"} or torch.get_num_threads() % LANES or _bound_to_thread():
        return False
    return all(map(_only_computes, (backbone.decoder, backbone.model.lm_head, *modules)))


def _bound_to_thread() -> bool:
    """Whether something has been set in this thread that others would run without: autocast, a mode of torch's (a default
    device, a counter of FLOPs), or a profiler; or whether it waits in vain for others: Python is ending, or it is one of them."""
    monitoring: Any = getattr(sys, "monitoring", None)  # how cProfile sees all threads from Python 3.12 on
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch.autograd._profiler_enabled()
        or sys.getprofile()
        or sys.gettrace()
        or (monitoring is not None and monitoring.get_tool(monitoring.PROFILER_ID))
        or torch_module._has_any_global_hook()
        or not threading.main_thread().is_alive()
        or threading.current_thread().name.startswith(_NAME)
    )


def _only_computes(module: nn.Module) -> bool:
    """Whether a module may be called in two threads at once, and in any order: no training, whose random draws and statistics
    follow one another, and no code of others, which may keep something from line to line: classes, hooks, patches, compilers."""
    return all(
        type(part).__module__.startswith(_KNOWN)
        and not part.training
        and part._compiled_call_impl is None
        and "forward" not in vars(part)
        and not any(map(_of_others, (*part._forward_hooks.values(), *part._forward_pre_hooks.values())))
        for part in module.modules()
    )


def _of_others(hook: Callable[..., Any]) -> bool:
    """Whether a hook is none of transformers', which record hidden states inside a model's own forward alone, and stay."""
    return not str(getattr(hook, "__module__", "")).startswith("transformers.")
