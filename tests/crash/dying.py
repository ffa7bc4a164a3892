"""`python -m tests.crash.dying FILE TIME BYTES MODULE OVERRIDES...`: a command that dies in the writing of a file.

FILE is a pattern of the file's name. The TIME-th time that one such is opened to be written, no file may grow beyond BYTES
more than this one has, and the first that would takes the process down at once, half written, as a kill there does: Python
runs nothing any more. Short files end so, too, in the writing of which no signal from outside would come in time.
"""

import fnmatch
import importlib
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

_TO_WRITE = os.O_WRONLY | os.O_RDWR


def main() -> None:
    pattern, times, size, module, *overrides = sys.argv[1:]
    left = int(times)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event != "open" or not isinstance(arguments[0], str) or not arguments[2] & _TO_WRITE:
            return
        path = Path(arguments[0])
        if fnmatch.fnmatch(path.name, pattern) or fnmatch.fnmatch(path.name, f"{pattern}.*.partial"):
            left -= 1
            if left == 0:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                length = path.stat().st_size if path.exists() else 0
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (length + int(size), hard))

    sys.addaudithook(watch)
    sys.argv = [module, *overrides]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
