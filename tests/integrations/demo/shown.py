"""The settings of a page, as the command's config gives them."""

from hydra import compose, initialize_config_dir

from blink.integrations.demo.plan import Shown, make_plan
from blink.runs.overrides import CONF_DIR


def shown_of(*overrides: str) -> Shown:
    """Compose the config with overrides, and check it."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return make_plan(compose("demo", list(overrides)), list(overrides))
