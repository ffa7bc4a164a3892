"""Commands as users type them, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def inherited() -> dict[str, str]:
    """What processes started by tests inherit: this checkout's packages, and one thread each, as the tests have."""
    paths = dict.fromkeys([str(ROOT / "src"), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}


def python(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end; its exit status is for the caller to judge.

    Args:
        env: the whole environment; None: this process's.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


_HOLDS = """
import sys
from pathlib import Path
from blink.runs.lock import lock
lock(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock of a path; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **inherited()},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
