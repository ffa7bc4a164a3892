"""Tests of the method; those against a literal Algorithm 1 are in oracle/.

Files of the room that are tested where they are used:

    run.py         test_attach.py, engine/test_engine.py
    algorithm.py   test_algorithm.py, oracle/test_oracle.py, oracle/test_oracle_random.py
    streams.py     test_attach.py, oracle/test_oracle.py, oracle/test_oracle_random.py
"""

from typing import Any

import pytest

from tests import models


@pytest.fixture
def model() -> Any:
    """A small LLaVA: 6 x 6 grid, 4 layers, width 48."""
    return models.llava(grid=6, layers=4)
