"""A prompt pass with extensions, its time over its FLOPs: `python -m benchmarks.extensions`."""

from collections.abc import Iterator

import torch

from benchmarks.common import Bench, Options, Row, interleave, tiny, token_sr, wide
from benchmarks.report import main
from blink import Policy, attach
from blink.evaluation.answering.cost import NOTHING, prompt, vision
from blink.evaluation.answering.cost import token_sr as token_sr_cost
from blink.runs.machine import has_bfloat16

ONE, SEVEN = 1.05, 1.08
"""Bars where one layer of 32 fires, and where seven do: a layer that fires has run its own q and k twice."""

WHY = "Beyond the FLOPs there are the copies that insert and remove an extension, and a second mask."


def on_tiny(options: Options) -> Iterator[Row]:
    """An extension is born at layer 1 and lives to the end; interpolated, and refined by TokenSR."""
    bench = tiny()
    for refined in (False, True):
        yield row(bench, (1,), refined, ONE, 5 * (options.repeats or (2 if options.quick else 5)))


def on_wide(options: Options) -> Iterator[Row]:
    """One layer of nine fires, which weighs more than one of 32, and two do: a little less than seven of 32."""
    fastest = ("bfloat16",) if has_bfloat16() else None  # passes take twenty seconds in float32
    for bench in wide(options, layers=9, dtypes=fastest):
        last = bench.dims.layers - 1
        for fired, bar in (((1,), ONE), ((1, last // 2 + 1), SEVEN)):
            for refined in (False, True):
                yield row(bench, fired, refined, bar, options.repeats or (2 if options.quick else 5))


def row(bench: Bench, fired: tuple[int, ...], refined: bool, bar: float, repeats: int) -> Row:
    """Compare one backbone with itself; each of some layers makes an extension, the later ones in place of the first."""
    inputs = bench.inputs()
    modules = token_sr(bench, fired) if refined else None
    handle = attach(bench.model, Policy(fired, tau_exp=0.0, tau_drop=0.0), modules)

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
        bar,
        f"prompt pass with an extension ({'TokenSR' if refined else 'interpolated'}), {len(fired)} of {dims.layers} layers "
        "fire: time ratio / FLOP ratio",
        bench.name,
        times,
        floor=floor,
        over_floor=True,
        note=f"time ratio {times.ratio:.3f}; fastest over fastest {min(times.ours) / min(times.theirs):.3f}",
    )


if __name__ == "__main__":
    main("extensions", __doc__, (on_tiny, on_wide), WHY)
