"""Blink: dynamic visual token resolution for LLaVA models of Hugging Face transformers.

Names are loaded when first used, so that `import blink` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blink.engine import Engine, Run
    from blink.handle import Handle, attach
    from blink.policy import Event, Policy
    from blink.token_sr import TokenSR, load_token_sr, save_token_sr

__all__ = [
    "Engine",
    "Event",
    "Handle",
    "Policy",
    "Run",
    "TokenSR",
    "attach",
    "load_token_sr",
    "save_token_sr",
]

_HOMES = {
    "Engine": "blink.engine",
    "Event": "blink.policy",
    "Handle": "blink.handle",
    "Policy": "blink.policy",
    "Run": "blink.engine",
    "TokenSR": "blink.token_sr",
    "attach": "blink.handle",
    "load_token_sr": "blink.token_sr",
    "save_token_sr": "blink.token_sr",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the file that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'blink' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
