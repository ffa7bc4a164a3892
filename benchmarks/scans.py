"""Seven scans beside 32 layers, timed inside the pass: `python -m benchmarks.scans`.

`benchmarks.never` compares whole passes, which differ by less than a busy machine's passes differ among themselves. Here
the parts of one and the same pass are timed, and put together as the bar has them.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.common import Options, Row, clock, wide
from benchmarks.never import BAR, WHY
from benchmarks.report import main
from blink import Policy, attach
from blink.evaluation.answering.cost import decoder_layer, scan
from blink.inference.scan import Scan
from blink.model.backbone import Backbone

SCANNED, LAYERS = 7, 32
"""What the bar is for."""


def on_wide(options: Options) -> Iterator[Row]:
    """Two layers, both scanned; the mask, the vision tower and the head, which a stock pass has as well, are left out."""
    repeats = options.repeats or (1 if options.quick else 5)
    for bench in wide(options, layers=2):
        inputs = bench.inputs()
        tokens = inputs["input_ids"].shape[1]
        # Scans of a policy that may expand, and decides at each layer; no ratio comes near this threshold.
        handle = attach(bench.model, Policy(range(bench.dims.layers), tau_exp=0.999, tau_drop=0.0))
        scans: list[float] = []
        layers: list[float] = []
        with (
            torch.inference_mode(),
            timed(Scan, "look", scans),
            timed(Backbone, "run_layer", layers),
        ):
            for _ in range(repeats + 1):
                bench.model(**inputs, logits_to_keep=1)
        handle.detach()
        scans, layers = scans[bench.dims.layers :], layers[bench.dims.layers :]  # the first pass warms up
        ratios = [1 + SCANNED * a / (LAYERS * b) for a, b in zip(scans, layers, strict=True)]
        value = 1 + SCANNED * statistics.median(scans) / (LAYERS * statistics.median(layers))
        yield Row(
            f"1 + {SCANNED} scans / {LAYERS} decoder layers, timed inside one pass",
            bench.name,
            value,
            min(ratios),
            max(ratios),
            f"<= {BAR}",
            value <= BAR,
            1
            + SCANNED
            * scan(bench.dims, tokens).flops
            / (LAYERS * decoder_layer(bench.dims, tokens, tokens).flops),
            f"a scan {1000 * statistics.median(scans):.0f} ms, a layer {1000 * statistics.median(layers):.0f} ms",
        )


@contextmanager
def timed(owner: Any, name: str, seconds: list[float]) -> Iterator[None]:
    """Inside, note how long each call of a function takes."""
    function: Callable[..., Any] = getattr(owner, name)
    now = clock()

    def call(*args: Any, **kwargs: Any) -> Any:
        started = now()
        made = function(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(now() - started)
        return made

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, function)


if __name__ == "__main__":
    main("scans", __doc__, (on_wide,), WHY)
