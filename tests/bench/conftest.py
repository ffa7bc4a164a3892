"""Fixtures of the benchmarks' tests.

Files of the room that are tested where they are used; the tests of the benchmarks also read most of `sources.py`:

    base.py   test_pope_sources.py, test_gqa.py, test_mme.py
"""

from pathlib import Path

import pytest


@pytest.fixture
def arrow_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` converts inside the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
