"""What a reader who follows a command meets: files of the package in the order in which their functions first run.

    python -m tools.walk blink.eval limit=2 logger=none
    python -m tools.walk blink.train layer=1 images=2 held_out=1 logger=none

Each function counts once, when it is first called. Functions of one file that follow each other are one visit; a return
is a visit to a file that was left before. Import-time code does not count. Runs write into outputs/ as always.
"""

import atexit
import runpy
import sys
import threading
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import blink

_PACKAGE = Path(blink.__file__).resolve().parent


def main() -> None:
    """Run the module named first with the arguments that follow, and print its walk when it ends."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    module, *arguments = sys.argv[1:]
    order: list[str] = []
    known: set[CodeType] = set()

    def enter(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code in known:
            return
        known.add(code)
        path = Path(code.co_filename)
        # Bodies of modules and classes run at import, and are not optimized; comprehensions belong to their function.
        if code.co_flags & CO_OPTIMIZED and code.co_name[0] != "<" and path.is_relative_to(_PACKAGE):
            order.append(str(path.relative_to(_PACKAGE)))

    atexit.register(lambda: print(report(order)))
    sys.argv = [module, *arguments]
    threading.setprofile(enter)
    sys.setprofile(enter)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.setprofile(None)


def visits_of(order: list[str]) -> list[str]:
    """The files in order, neighbours that are the same taken as one."""
    return [name for number, name in enumerate(order) if number == 0 or order[number - 1] != name]


def report(order: list[str]) -> str:
    """Files, visits and returns in one line, and then the walk itself, one line per visit."""
    visits, rooms = visits_of(order), visits_of([name.rpartition("/")[0] for name in order])
    files = len(set(visits))
    counts = (
        f"{files} files, {len(visits)} visits, {len(visits) - files} returns to a file already left; "
        f"{len(rooms)} visits to {len(set(rooms))} rooms"
    )
    return "\n".join([*visits, counts])


if __name__ == "__main__":
    main()
