"""`python -m blink.compare FOLDER FOLDER`: finished evaluations in pairs.

Heavy imports wait until the arguments are read, so that `--help` is quick.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from blink.runs.command import one_line_errors, refuse_several_processes
from blink.runs.config.groups import as_typed
from blink.runs.signals import ending_on_signals


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of the run folders given on the command line."""
    parser = argparse.ArgumentParser(
        prog=as_typed("python -m blink.compare"),
        description="Compare finished evaluations of one benchmark, each pair over the same questions.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help=as_typed("run folders of `python -m blink.eval`")
    )
    folders: list[Path] = parser.parse_args(arguments).folders
    with ending_on_signals(), one_line_errors():
        refuse_several_processes("compare")
        from blink.evaluation.compare import (
            compare,
            comparison_table,
            read_run,
            score_table,
            screen,
            told_apart,
        )

        runs = told_apart([read_run(folder) for folder in folders])
        pairs = [compare(first, second) for first, second in combinations(runs, 2)]
    console = screen()
    console.print(score_table(runs))
    if pairs:
        console.print(comparison_table(pairs, runs[0].result))


if __name__ == "__main__":
    main()
