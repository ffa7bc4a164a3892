"""How much is tried: a little and the same every time in the normal suite, more with `make fuzz N=500`."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=None, help="how many examples each test tries, drawn anew")


def pytest_configure(config: pytest.Config) -> None:
    examples = config.getoption("--fuzz", default=None)
    settings.register_profile(
        "fuzz", settings.get_profile("fuzz"), max_examples=examples or 40, derandomize=examples is None
    )
    settings.load_profile("fuzz")


@pytest.fixture(autouse=True)
def arrow_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` converts inside the test's own folder, and its progress bars off the screen."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    datasets.disable_progress_bars()
