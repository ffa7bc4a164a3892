"""Attention functions of ours beside those of transformers: a stock decoder layer hands over its own q and k.

transformers looks up each layer's attention function by name at every call, and passes keyword arguments of a layer on
to it. So a stock layer runs with `attention_hook=` some object, which is shown the layer's queries and keys, after their
norms and rotary embedding, and either goes on to the stock function, attends by itself, or leaves the layer. Nothing
else of a layer need be known, and no class is patched. Without a hook the function is the stock one.

Axes: B rows, N new tokens, M columns of keys, A query heads, K key heads, E width of one head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from blink.model.backbone import HOOK, Backbone
from blink.model.text_model import eager_attention
from blink.runs.values import UserError

_PREFIX = "blink_"


class Hook(Protocol):
    """What a layer's attention function calls in place of the stock one."""

    def __call__(
        self,
        query_BANE: Tensor,
        keys_BKME: Tensor,
        values_BKME: Tensor,
        scaling: float,
        stock: Callable[[], tuple[Tensor, Any]],
        /,
    ) -> tuple[Tensor, Any]:
        """Attend, or leave the layer by raising `LeaveLayer`.

        Args:
            query_BANE: of the new tokens, after norm and rotary embedding.
            keys_BKME: of all columns that the layer's cache gives, the new ones last; A is a multiple of K.
            values_BKME: their values.
            scaling: factor of the scores.
            stock: computes the stock function's output.

        Returns:
            The output [B, N, A, E], and weights or None, as the stock functions do.
        """
        ...


class LeaveLayer(Exception):  # noqa: N818 (not an error: it never reaches a caller)
    """Ends a decoder layer from within its attention; its cache has been updated by then."""


def leave(*_: Any) -> tuple[Tensor, Any]:
    """A hook that runs a layer up to its attention, for the keys and values that its cache then holds."""
    raise LeaveLayer


@contextmanager
def hooks_enabled(backbone: Backbone) -> Iterator[None]:
    """Inside, layers of a backbone pass a hook on to the attention function.

    The config names our function meanwhile, and its own again once the last of several loops, in whatever threads, has
    ended. A stock pass that runs beside them meets our function without a hook, which is the stock one.
    """
    configs = {id(config): config for config in backbone.attention_configs}
    with _lock:
        for key, config in configs.items():
            count, stock = _users.get(key, (0, ""))
            if not count:
                stock = config._attn_implementation
                config._attn_implementation = _registered(stock)
            _users[key] = (count + 1, stock)
    try:
        yield
    finally:
        with _lock:
            for key, config in configs.items():
                count, stock = _users.pop(key)
                if count > 1:
                    _users[key] = (count - 1, stock)
                else:
                    config._attn_implementation = stock


_PLAIN = {"scaling", "dropout", "is_causal", "position_ids", "use_cache", "output_attentions"}
"""Keyword arguments of an attention function that change nothing of what the scan and the engine assume."""

_lock = Lock()
_users: dict[int, tuple[int, str]] = {}
"""Of the configs in use, by identity: how many loops are under way, and the stock implementation's name."""


def _registered(stock: str) -> str:
    """Register our function beside a stock one, once, with the stock one's mask: its name."""
    name = f"{_PREFIX}{stock}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
        AttentionInterface.register(name, _hooked(stock))
    return name


def _hooked(stock: str) -> Callable[..., tuple[Tensor, Any]]:
    """The attention function of a name that lets a hook go first."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        hook: Hook | None = kwargs.pop(HOOK, None)

        def stock_output() -> tuple[Tensor, Any]:
            # Each modeling file has an eager function of its own, which the table of functions does not list.
            function: Any = (
                eager_attention(type(module)) if stock == "eager" else ALL_ATTENTION_FUNCTIONS[stock]
            )
            of_module = _Named(module, stock) if stock.startswith("flash") else module
            output: tuple[Tensor, Any] = function(of_module, query, key, value, mask, **kwargs)
            return output

        if hook is None:
            return stock_output()
        other = [name for name, value in kwargs.items() if value is not None and name not in _PLAIN]
        if other:
            raise UserError(
                f"{type(module).__name__} attends with {', '.join(sorted(other))}; Blink needs a plain softmax of scaled "
                "scores over all tokens so far"
            )
        given = (query, key, value, kwargs["scaling"], stock_output)
        return _call(hook, *given) if torch.compiler.is_compiling() else hook(*given)

    return attend


@torch.compiler.disable
def _call(hook: Hook, *args: Any) -> tuple[Tensor, Any]:
    """Call a hook, which waits for numbers and may raise: a layer that is compiled by itself is split here."""
    return hook(*args)


class _Named:
    """An attention module under the stock implementation's name, which flash attention reads from the config again."""

    def __init__(self, module: nn.Module, implementation: str) -> None:
        self._module = module
        self.config = _NamedConfig(module.config, implementation)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _NamedConfig:
    def __init__(self, config: Any, implementation: str) -> None:
        self._config = config
        self._attn_implementation = implementation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)
