"""A prompt pass with a policy that scans and never expands, over the stock model's: `python -m benchmarks.never`."""

from collections.abc import Iterator

import torch

from benchmarks.common import Bench, Options, Row, interleave, options, tiny, wide
from benchmarks.report import show
from blink import Policy, attach
from blink.cost import prompt, vision
from blink.policy import Event

BAR = 1.03

WHY = (
    "A scan projects the keys of the whole sequence once more: 8 % of a layer, which the model's own attention could "
    "lend it only at the price of changing that attention."
)


def measure(asked: Options) -> Iterator[Row]:
    """The wide backbone scans one layer of four (the bar's share is 7 of 32), tiny seven of sixteen."""
    repeats = asked.repeats or (2 if asked.quick else 7)
    bench = tiny()
    yield row(bench, tuple(range(4, 11)), 5 * repeats)
    for bench in wide(asked, layers=4):
        layers = bench.dims.layers
        slow = bench.dims.itemsize == 2 and not torch.cuda.is_available()
        yield row(bench, tuple(range(1, layers, 4)), max(2, repeats // 2) if slow else repeats)


def row(bench: Bench, scanned: tuple[int, ...], repeats: int) -> Row:
    """Compare one backbone with itself."""
    inputs = bench.inputs()
    handle = attach(bench.model, Policy(scanned, tau_exp=1.0, tau_drop=0.0))

    @torch.inference_mode()
    def run() -> None:
        bench.model(**inputs, logits_to_keep=1)

    def stock() -> None:
        with handle.disabled():
            run()

    times = interleave(run, stock, repeats)
    handle.detach()
    tokens = inputs["input_ids"].shape[1]
    kept = [Event(layer, 0.5, 0, "keep") for layer in scanned]
    floor = (vision(bench.dims) + prompt(bench.dims, tokens, kept)).flops / (
        vision(bench.dims) + prompt(bench.dims, tokens)
    ).flops
    return Row(
        "prompt pass that scans and never expands / stock",
        bench.name,
        times.ratio,
        min(times.ratios),
        max(times.ratios),
        f"<= {BAR}",
        times.ratio <= BAR,
        floor,
        f"{len(scanned)} of {bench.dims.layers} layers scanned; the bar is for 7 of 32",
    )


if __name__ == "__main__":
    show(measure(options(str(__doc__))), WHY)
