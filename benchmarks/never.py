"""A prompt pass with a policy that scans and never expands, over the stock model's: `python -m benchmarks.never`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.common import Bench, Options, Row, interleave, tiny, wide
from benchmarks.report import main
from blink import Policy, attach
from blink.evaluation.answering.cost import prompt, vision
from blink.inference.policy import Event

BAR = 1.03

WHY = (
    "A scan is one product, from the q and k that the layer has at hand; on tiny that and Python's share of the pass weigh "
    "(docs/log.md has what was tried). Passes of one kind differ among themselves: where the brackets "
    "are wider than the bar, this row decides nothing either way, and `python -m benchmarks.scans`, which times scans "
    "inside a pass, says what they add."
)


def on_tiny(options: Options) -> Iterator[Row]:
    """Seven of sixteen layers are scanned, on one thread; in bfloat16, too, even without hardware for it."""
    repeats = options.repeats or (2 if options.quick else 7)
    for bench in (tiny(), tiny("bfloat16")):
        with one_thread():
            measured = row(bench, tuple(range(4, 11)), 20 * repeats)  # passes of 30 ms
        yield measured._replace(note=f"one thread; {measured.note}")


def on_wide(options: Options) -> Iterator[Row]:
    """Two layers of nine are scanned: a little more than the bar's 7 of 32."""
    for bench in wide(options, layers=9):
        repeats = 15 if bench.dims.itemsize == 2 else 7  # passes in bfloat16 are quick
        yield row(
            bench, tuple(range(1, bench.dims.layers, 4)), options.repeats or (2 if options.quick else repeats)
        )


def row(bench: Bench, scanned: tuple[int, ...], repeats: int) -> Row:
    """Compare one backbone with itself."""
    inputs = bench.inputs()
    handle = attach(bench.model, Policy.never(scanned))

    @torch.inference_mode()
    def run() -> None:
        # Without the head: for the last token alone torch copies its weights, which takes long.
        bench.model.model(**inputs)

    def stock() -> None:
        with handle.disabled():
            run()

    times = interleave(run, stock, repeats)
    handle.detach()
    tokens = inputs["input_ids"].shape[1]
    kept = [Event(layer, 0.5, 0, "keep") for layer in scanned]
    fastest = min(times.ours) / min(times.theirs)
    floor = (vision(bench.dims) + prompt(bench.dims, tokens, kept)).flops / (
        vision(bench.dims) + prompt(bench.dims, tokens)
    ).flops
    found = Row.at_most(
        BAR,
        "prompt pass that scans and never expands / stock",
        bench.name,
        times,
        floor=floor,
        note=f"{len(scanned)} of {bench.dims.layers} layers scanned, the bar is for 7 of 32; fastest over fastest "
        f"{fastest:.3f}",
    )
    # Another program can only lengthen a pass: where the fastest of both sides meet the bar, the code does.
    return found._replace(holds=found.holds or fastest <= BAR)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread, whose seconds other programs hardly disturb."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main("never", __doc__, (on_tiny, on_wide), WHY)
