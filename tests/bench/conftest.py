"""Fixtures of the benchmarks' tests.

`base.py`, `scoring.py` and `mme_release.py` are covered by the tests of the benchmarks; of `sources.py`, all but the
reader of JSON lines is, too.
"""

from pathlib import Path

import pytest


@pytest.fixture
def arrow_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` converts inside the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
