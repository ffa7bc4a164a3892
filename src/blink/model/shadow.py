"""A method of one object, replaced by ours and put back: an instance attribute hides the method of the class.

Other libraries replace methods in the same way, above or below ours (accelerate's hooks: they set `forward` and keep
what it was as `_old_forward`), and take theirs back in any order. torch.compile runs what is behind a shadow as it is.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from blink.model.backbone import CACHE, OLD_CACHE

_WRAPPED = "_old_forward"
"""Where accelerate's hooks keep the forward that they wrap. What stands there runs inside the hooks and outlives them."""


class Shadow:
    """A method of one module object, shadowed: `method` is called in place of it, and may call `stock`.

    A copy or a pickle of the module holds the stock method in its place, bound to the copy.

    Attributes:
        module: whose method it is.
    """

    # Without a __dict__, which functools.update_wrapper would copy into another library's wrapper.
    __slots__ = ("__signature__", "_attribute", "_below", "_method", "_name", "module")

    def __init__(self, module: Any, name: str, method: Callable[..., Any]) -> None:
        self.module = module
        self._name = name
        self._attribute = _WRAPPED if name == "forward" and _WRAPPED in vars(module) else name
        self._below: Callable[..., Any] | None = vars(module).get(self._attribute)
        self._method: Callable[..., Any] | None = method
        # Trainers and `generate` look up the arguments of a forward.
        self.__signature__ = inspect.signature(self.stock)
        setattr(module, self._attribute, self)

    @torch.compiler.disable
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._method or self.stock)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._below is None:
            return getattr, (self.module, self._name)
        return _as_it_is, (self._below,)

    @property
    def is_live(self) -> bool:
        """Whether it has not been removed."""
        return self._method is not None

    @property
    def stock(self) -> Callable[..., Any]:
        """The method that is hidden, bound to the module; another library's where one had replaced it before."""
        method: Callable[..., Any] = self._below or getattr(type(self.module), self._name).__get__(
            self.module
        )
        return method

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, extra keywords included; a cache under the name that this transformers uses."""
        kwargs = {CACHE if name == OLD_CACHE else name: value for name, value in kwargs.items()}
        if not args:  # most calls, which need no signature
            return kwargs
        bound = self.__signature__.bind(*args, **kwargs).arguments
        extra = bound.pop("kwargs", {})
        return {**bound, **extra}

    def remove(self) -> None:
        """Take it out of the module; where another library has kept it, out of sight, it goes on as the stock method."""
        self._method = None
        for name, value in list(vars(self.module).items()):
            if value is not self:
                continue
            if self._below is None and name == self._name:
                delattr(self.module, name)
            else:
                setattr(self.module, name, self.stock)


def is_shadowed(module: Any) -> bool:
    """Whether a method of a module is shadowed, be it beneath another library's wrapper."""
    return any(isinstance(value, Shadow) and value.is_live for value in vars(module).values())


def _as_it_is(method: Callable[..., Any]) -> Callable[..., Any]:
    return method
