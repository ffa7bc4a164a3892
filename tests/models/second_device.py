"""A second device, where a machine has but a CPU: tensors that say they are elsewhere and compute here.

A tensor of `SECOND` wraps one of the CPU. Like a GPU's it takes part in no operation with tensors of another device but
copies and indexing by indices of the CPU, and what is made of it lies where it does. torch's own device type "lazy" lends
its name: a CPU build knows the type and has nothing behind it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

SECOND = torch.device("lazy")

_CROSSING = {
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten.to.device,
    torch.ops.aten.to.dtype_layout,
    torch.ops.aten.to.other,
}
_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}
"""Operations that take indices of the CPU on any device. Indices elsewhere have to lie with what they index."""


@contextmanager
def second_device() -> Iterator[None]:
    """Inside, tensors can be made on and moved to the second device."""
    with _Moved(), _Made():
        yield


class Elsewhere(Tensor):
    """A tensor on the second device."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        tensor: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=SECOND,
            requires_grad=here.requires_grad,
        )
        tensor.here = here
        return tensor

    def __init__(self, here: Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.here})"

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own is declared with one that does nothing
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """`torch.tensor`, and lists as indices, copy numbers to a device out of sight of the other mode."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == SECOND:
            return func(*args, **{**kwargs, "device": "cpu"}).to(SECOND)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(part) if isinstance(part, list) else part for part in index)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


class _Moved(TorchDispatchMode):
    """Runs operations that have the second device as an argument."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    devices = {tensor.device for tensor in tensors if tensor.dim() or tensor.device == SECOND}
    where = next(iter(devices), torch.device("cpu"))
    asked = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)), None)
    if asked is not None:
        where = asked
    elif func is torch.ops.aten.to.other:
        where = args[1].device
    elif func in _CROSSING or func in _INDEXING:
        where = args[0].device
    if len(devices) > 1 and func not in _CROSSING:
        allowed = func in _INDEXING and where == SECOND and _only_indices_are_here(args)
        if not allowed:
            raise RuntimeError(f"{func}: expected all tensors to be on one device, found {devices}")
    output = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if where != SECOND:
        return output
    known = {id(tensor.here): tensor for tensor in tensors if isinstance(tensor, Elsewhere)}

    def there(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else Elsewhere(leaf)

    return tree_map(there, output)


def _here(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu") if leaf == SECOND else leaf
    return leaf.here if isinstance(leaf, Elsewhere) else leaf


def _only_indices_are_here(args: tuple[Any, ...]) -> bool:
    return all(
        leaf.device == SECOND
        for leaf in tree_leaves((args[0], args[2:]))
        if isinstance(leaf, Tensor) and leaf.dim()
    )


def spread(model: nn.Module, decoder: Any, layers: Iterable[int], others: Iterable[str] = ()) -> nn.Module:
    """Move some decoder layers, and other modules by name, to the second device, and dispatch the model with accelerate.

    The CPU is named as the main device, so that what lies there is not taken for offloaded.
    """
    names = {id(module): name for name, module in model.named_modules()}
    away = {names[id(decoder.layers[layer])] for layer in layers} | set(others)
    device_map: dict[str, Any] = {}

    def place(module: nn.Module, name: str) -> None:
        if name in away:
            device_map[name] = SECOND.type
        elif any(other.startswith(f"{name}." if name else "") for other in away):
            for child, of_child in module.named_children():
                place(of_child, f"{name}.{child}" if name else child)
            for own, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                device_map[f"{name}.{own}" if name else own] = "cpu"
        else:
            device_map[name] = "cpu"

    place(model, "")
    return dispatch_model(model, device_map, main_device="cpu", force_hooks=True)
