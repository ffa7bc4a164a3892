"""A prompt pass with extensions, its time over its FLOPs: `python -m benchmarks.extensions`."""

from collections.abc import Iterator

import torch

from benchmarks.common import Bench, Options, Row, interleave, tiny, token_sr, wide
from benchmarks.report import main
from blink import Policy, attach
from blink.evaluation.answering.cost import NOTHING, prompt, vision
from blink.evaluation.answering.cost import token_sr as token_sr_cost

BAR = 1.10

WHY = (
    "Beyond the FLOPs there are the copies that insert and remove an extension, a second mask, and TokenSR's convolutions, "
    "which on a CPU are slower in bfloat16 than matrix products of as many FLOPs (docs/log.md)."
)


def on_tiny(options: Options) -> Iterator[Row]:
    """An extension is born at layer 1 and lives to the end; interpolated, and refined by TokenSR."""
    bench = tiny()
    for refined in (False, True):
        yield row(bench, refined, 5 * (options.repeats or (2 if options.quick else 5)))


def on_wide(options: Options) -> Iterator[Row]:
    """The same at layer 1 of three."""
    for bench in wide(options, layers=3):
        for refined in (False, True):
            yield row(bench, refined, options.repeats or (2 if options.quick else 5))


def row(bench: Bench, refined: bool, repeats: int) -> Row:
    """Compare one backbone with itself."""
    inputs = bench.inputs()
    modules = token_sr(bench, (1,)) if refined else None
    handle = attach(bench.model, Policy([1], tau_exp=0.0, tau_drop=0.0), modules)

    @torch.inference_mode()
    def run() -> None:
        # Without the head: for the last token alone torch copies its weights, which takes long.
        bench.model.model(**inputs)

    def stock() -> None:
        with handle.disabled():
            run()

    times = interleave(run, stock, repeats)
    run()
    [events] = handle.trace
    handle.detach()
    dims, tokens = bench.dims, inputs["input_ids"].shape[1]
    expander = token_sr_cost(dims) if refined else NOTHING
    work = (vision(dims) + prompt(dims, tokens, events, expander=expander)).flops
    floor = work / (vision(dims) + prompt(dims, tokens)).flops
    return Row.at_most(
        BAR,
        f"prompt pass with an extension ({'TokenSR' if refined else 'interpolated'}): time ratio / FLOP ratio",
        bench.name,
        times,
        floor=floor,
        over_floor=True,
        note=f"time ratio {times.ratio:.3f}; fastest over fastest {min(times.ours) / min(times.theirs):.3f}",
    )


if __name__ == "__main__":
    main("extensions", __doc__, (on_tiny, on_wide), WHY)
