"""Blink: dynamic visual token resolution for vision-language models of Hugging Face transformers.

Names are loaded when first used, so that `import blink` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blink.inference.attach import Handle, attach
    from blink.inference.engine import Ask, Engine
    from blink.inference.policy import Event, Policy
    from blink.inference.run import Run
    from blink.integrations.hub.upload import push_token_sr
    from blink.model.load import load
    from blink.model.token_sr import TokenSR
    from blink.model.token_sr.files import load_token_sr, save_token_sr

__all__ = [
    "Ask",
    "Engine",
    "Event",
    "Handle",
    "Policy",
    "Run",
    "TokenSR",
    "attach",
    "load",
    "load_token_sr",
    "push_token_sr",
    "save_token_sr",
]

_HOMES = {
    "Ask": "blink.inference.engine",
    "Engine": "blink.inference.engine",
    "Event": "blink.inference.policy",
    "Handle": "blink.inference.attach",
    "Policy": "blink.inference.policy",
    "Run": "blink.inference.run",
    "TokenSR": "blink.model.token_sr",
    "attach": "blink.inference.attach",
    "load": "blink.model.load",
    "load_token_sr": "blink.model.token_sr.files",
    "push_token_sr": "blink.integrations.hub.upload",
    "save_token_sr": "blink.model.token_sr.files",
}


def _version() -> str:
    """The version of the installed package, or of the checkout that it is imported from."""
    from importlib import metadata

    try:
        return metadata.version("blink-mllm")
    except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        import tomllib
        from pathlib import Path

        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])


def __getattr__(name: str) -> Any:
    """Load a public name from the file that defines it; `__version__` is that of the installed package."""
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'blink' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
