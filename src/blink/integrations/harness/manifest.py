"""What lmms-eval reads of installed packages at its start: under which name which class is to be had, and no more.

It is the entry point of the group `lmms_eval.models` in pyproject.toml. The class is named and not imported, so that
other models of lmms-eval start as quickly as without Blink.
"""

from typing import Any

NAME = "blink_mllm"
"""Of the model, for `--model`."""


def manifest() -> Any:
    """The manifest of the one model, as lmms-eval's registry takes it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, simple_class_path="blink.integrations.harness.model.BlinkMllm")
