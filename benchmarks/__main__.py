"""All measurements, into `docs/performance.md`: `python -m benchmarks`; takes the options of each, and `--fresh`.

The page is written anew after each part. A run that was killed goes on with the parts that it had not finished.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import extensions, never, noise, on_paper, pictures, questions, scans, sweep, training
from benchmarks.common import Options, Row, clock, command_line, load_average
from benchmarks.gpu import page as gpu
from benchmarks.records import Record, Records, key
from benchmarks.report import machine, markdown, paper_table, show
from blink.runs.machine import has_bfloat16, keep_freed_memory


class Part(NamedTuple):
    """Rows on one kind of backbone, and why they may miss their bar."""

    name: str
    measure: Callable[[Options], Iterator[Row]]
    why: str


PARTS = (
    Part("never, wide", never.on_wide, never.WHY),
    Part("scans, wide", scans.on_wide, never.WHY),
    Part("extensions, wide", extensions.on_wide, extensions.WHY),
    Part("never, tiny", never.on_tiny, never.WHY),
    Part("extensions, tiny", extensions.on_tiny, extensions.WHY),
    Part("questions, tiny", questions.on_tiny, questions.WHY),
    Part("pictures, tiny", pictures.on_tiny, pictures.WHY),
    Part("sweep, tiny", sweep.on_tiny, sweep.WHY),
    Part("training, tiny", training.on_tiny, training.WHY),
    Part("questions, wide", questions.on_wide, questions.WHY),
    Part("pictures, wide", pictures.on_wide, pictures.WHY_WIDE),
    Part("sweep, wide", sweep.on_wide, sweep.WHY),
    Part("training, wide", training.on_wide, training.WHY),
)

SHARED = ("shared_cost", "common")
"""Modules that the numbers of all parts depend on."""

TARGET = Path("docs/performance.md")
RECORDS = Path("outputs/benchmarks/rows.jsonl")

HEAD = """# Performance

Written by `make bench` ({minutes:.0f} minutes on this machine: {machine}; load average before each part {loads}, other
programs included). One line of the table alone: `python -m benchmarks.never`, `scans`, `extensions`, `questions`,
`pictures`, `sweep` or `training`.

Ratios of two sides that ran in turn in one process, on the same threads, after an unmeasured call (of each, where calls
are short): the ratio of their medians, in brackets the extremes over the repetitions. Seconds are {clock}.
The process keeps freed memory, as the commands do (`blink.runs.machine.keep_freed_memory`).
"In FLOPs" is the same ratio counted on paper (`blink.evaluation.answering.cost`, `benchmarks.shared_cost`): the floor. *LLaVA-1.5's width* is
LLaVA-1.5-7B's (hidden 4096, 32 heads, MLP 11008, 576 visual tokens) with random weights, as many decoder layers as said,
and two layers of the vision tower; *width 2048* is the same at half the width, for what takes longest. *Tiny* ships with
the project: Python's share of its layers is large.{bfloat16}
"""

NO_BFLOAT16 = (
    " This machine has no bfloat16 in hardware and emulates it at a tenth of float32's speed or less, so true width is "
    "measured in float32 alone."
)


def main() -> None:
    parser = command_line("", __doc__)
    parser.add_argument("--fresh", action="store_true", help="measure all parts anew")
    read = parser.parse_args()
    keep_freed_memory()  # as the commands do; it is quicker for both sides
    options = Options.of(read)
    target = Path("outputs/benchmarks/quick.md") if options.quick else TARGET
    records = Records(RECORDS, {part.name: _key(part, options) for part in PARTS})
    if read.fresh:
        RECORDS.unlink(missing_ok=True)
        noise.TARGET.unlink(missing_ok=True)
    for part in PARTS:
        if part.name not in [record.part for record in records.read()]:
            started, load = time.monotonic(), load_average()
            rows = show(part.measure(options), part.why)
            records.add(Record(part.name, rows, time.monotonic() - started, load))
        _write(target, records)
    if not noise.TARGET.exists():
        for _ in noise.measure(("bfloat16",), pictures=1 if options.quick else 17):
            _write(target, records)


def _key(part: Part, options: Options) -> str:
    """Of all that the numbers of a part depend on: options, machine, versions, the package and the part's own files."""
    here, own = Path(__file__).parent, Path(inspect.getfile(part.measure))
    package = here.parent / "src" / "blink"
    return key(
        f"{options} {machine()}",
        (package, here.parent / "tests" / "models", *(here / f"{name}.py" for name in SHARED), own),
    )


def _write(target: Path, records: Records) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # what a GPU has measured stays, whichever machine writes the rest of the page
    earlier = target.read_text(encoding="utf-8") if target.exists() else ""
    target.write_text(f"{page(records.read())}\n{gpu.section_of(earlier)}", encoding="utf-8")


def page(records: Sequence[Record]) -> str:
    """The whole page, as far as it is measured."""
    minutes, loads = sum(record.seconds for record in records) / 60, [record.load for record in records]
    why = {part.name: part.why for part in PARTS}
    missing = [part.name for part in PARTS if part.name not in [record.part for record in records]]
    text = [
        HEAD.format(
            minutes=minutes,
            machine=machine(),
            clock="those that the process ran on its one thread, so that other programs disturb them little"
            if clock() is time.process_time
            else "those of the clock on the wall",
            loads=f"{min(loads):.1f} to {max(loads):.1f}",
            bfloat16="" if has_bfloat16() else NO_BFLOAT16,
        ),
        markdown([row for record in records for row in record.rows]),
    ]
    if missing:
        text += ["", f"Not measured yet: {'; '.join(missing)}."]
    misses: dict[str, list[Row]] = {}
    for record in records:
        for row in record.rows:
            if not row.holds:
                misses.setdefault(why[record.part], []).append(row)
    if misses:
        text += ["", "## What misses its bar, and why", "", "In this run; docs/log.md has others."]
    for reason, rows in misses.items():
        text += ["", *(f"- {row.what} ({row.where})" for row in rows), "", reason]
    if noise.TARGET.exists():
        text += ["", noise.TARGET.read_text(encoding="utf-8").rstrip()]
    _, table = paper_table(on_paper.HEADER, on_paper.lines())
    text += ["", "## At full size, computed", "", f"Nothing here was measured. {on_paper.ASSUMED}", "", table]
    _, table = paper_table(on_paper.WAYS_HEADER, on_paper.ways())
    text += ["", on_paper.WAYS_ASSUMED, "", table]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
