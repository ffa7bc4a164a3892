"""Tests of training; those of whole runs are in tests/test_train.py.

Files of the room that are tested where they are used:

    checks.py     test_plan.py
    order.py      test_data.py
"""

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from blink.runs.command import one_line_errors
from blink.runs.config.groups import CONF_DIR
from blink.training.plan import Plan, make_plan


def planned(*overrides: str) -> Plan:
    """The plan of `python -m blink.train` with some overrides."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    with one_line_errors():
        return make_plan(plain)
