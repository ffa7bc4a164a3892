"""The environment of all tests, also in the processes that they start, and fixtures that several files share.

Heavy packages are imported inside of fixtures: pytest-xdist loads this file in a process that runs no tests, too.

Commands that are tested in the rooms that they call:

    compare.py   evaluation/test_compare.py
    explain.py   analysis/explain/test_command.py
    push.py      integrations/hub/test_upload.py
"""

import gc
import os
import resource
import signal

from tests.processes import inherited

os.environ.update(inherited())
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Shells start background jobs with Ctrl-C ignored, and nohup ignores SIGHUP: commands respect that, and the processes of
# tests would inherit it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from blink.runs.machine import RANK_VARIABLES
from tests.composing import composed_once
from tests.inference.oracle.ledger import LEDGER, Ledger
from tests.told_runs import told_runs  # noqa: F401  a fixture

HERE = Path(__file__).parent

LONG = (
    "crash/",
    "test_eval_processes.py",
    "test_train_processes.py",
    "test_network.py",
    "model/test_shadow.py",
)
"""Files and folders of tests of many seconds each."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread: matrices this small are slower on several, and sums keep their order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_flushed() -> Iterator[None]:
    """Leave out the waits for the disk, several a file: only a power failure shows them, and no test has one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def configs_are_composed_once() -> Iterator[None]:
    """Leave out most of the work of Hydra: it is a third of what tests of mistakes take."""
    with composed_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def imports_stay() -> None:
    """Let the garbage collector leave out what was imported, some millions of objects, and look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, *gc.get_threshold()[1:])


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-1.5 with its processor on disk: 6 x 6 grid, 4 layers, width 32. Do not write into it."""
    from tests import models

    return models.save(models.llava(grid=6, layers=4, hidden=32), tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="session")
def llava_next_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA-NeXT with its processor on disk: 6 x 6 base grid, as small. Do not write into it."""
    from tests import models

    return models.save(models.llava_next(grid=6, layers=4, hidden=32), tmp_path_factory.mktemp("llava_next"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 small pictures, of which 22 are trained on and two held out. Do not write into it."""
    from tests import models

    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(24):
        models.picture(seed, (48, 40)).save(folder / f"{seed:02d}.png")
    return folder


@pytest.fixture
def in_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder, as the first process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for variable in RANK_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def backbone(llava_folder: Path) -> str:
    """The override that names a small backbone."""
    return f"model.path={llava_folder}"


@pytest.fixture
def modules(tmp_path: Path) -> str:
    """The override that names untrained modules of layers 1 and 2 for it."""
    import torch

    from blink import TokenSR, save_token_sr

    torch.manual_seed(0)
    save_token_sr({1: TokenSR(32), 2: TokenSR(32)}, tmp_path / "modules", backbone="b")
    return f"token_sr={tmp_path / 'modules'}"


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond some bytes, as a full disk does, until the test's body ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Lift a `file_size_limit` before pytest says how the test went: its own output may go to a file, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start processes: one of them alone at the end would keep the other workers waiting."""
    items.sort(key=lambda item: not item.path.relative_to(HERE).as_posix().startswith(LONG))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands what it compared with the oracle to the process that reports.

    What nobody closed is found here, once: pytest would collect garbage ten times.
    """
    gc.collect()
    gc.freeze()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compared"] = asdict(LEDGER)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what the workers compared; pytest-xdist calls this where it runs them."""
    compared = getattr(node, "workeroutput", {}).get("compared")
    if compared is not None:
        LEDGER.add(Ledger(**compared))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was compared with the oracle, and how closely it agreed."""
    if not LEDGER.samples:
        return
    terminalreporter.section("blink.attach against the literal Algorithm 1")
    terminalreporter.write_line(
        f"{LEDGER.samples} samples, worst logit difference {LEDGER.worst:.1e} of the largest logit; "
        f"{LEDGER.steps} events, worst ratio difference {LEDGER.worst_ratio:.1e}; "
        f"{LEDGER.set_aside} samples set aside as undecided"
    )
    counts = ", ".join(f"{name} {count}" for name, count in sorted(LEDGER.transitions.items()))
    terminalreporter.write_line(counts)
    for name, (samples, worst, worst_ratio) in sorted(LEDGER.families.items()):
        terminalreporter.write_line(
            f"{name:<18}{samples:>5} samples, logits {worst:.1e}, ratios {worst_ratio:.1e}"
        )
