"""The settings of a page, as the command's config gives them."""

import pytest
from hydra import compose, initialize_config_dir

from blink.integrations.demo.plan import Shown, make_plan
from blink.runs.config.groups import CONF_DIR

GRADIO_WARNS = (
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated and will be removed"),
)
"""Gradio's summary of its queue uses two things that pandas 3 has deprecated (gradio/queueing.py)."""


def shown_of(*overrides: str) -> Shown:
    """Compose the config with overrides, and check it."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return make_plan(compose("demo", list(overrides)), list(overrides))
