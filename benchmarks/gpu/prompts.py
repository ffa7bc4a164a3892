"""One question at a time: a prompt pass and decoding, stock, never firing, interpolated and by TokenSR."""

import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from benchmarks.common import Bench, Row, Times, token_sr
from benchmarks.gpu.size import Size, peak_gb, seconds, told
from blink import Policy, attach
from blink.evaluation.answering.cost import NOTHING, prompt, vision
from blink.evaluation.answering.cost import token_sr as token_sr_cost
from blink.inference.policy import Event
from tests.host_reads import HostReads

NEVER_BAR, EXTENSION_BAR = 1.03, 1.15

WHY = (
    "A scan is one row of attention and some small kernels, whose launches a GPU hides behind the layers only while the host "
    "is ahead of it; beyond its FLOPs an extension costs the copies that insert it, the layer that is left and run again, and "
    "one wait of the host."
)

Side = tuple[Policy, Mapping[int, nn.Module] | None] | None
"""Policy and modules; None is the stock model."""


def sides(bench: Bench, size: Size) -> dict[str, Side]:
    """What is compared, by name. An extension is born at the first scanned layer and lives to the end."""
    first = size.scanned[0]
    always = Policy([first], 0.0, 0.0)
    return {
        "stock": None,
        "never firing": (Policy.never(size.scanned), None),
        "interpolated": (always, None),
        "TokenSR": (always, token_sr(bench, (first,))),
    }


def passes(bench: Bench, size: Size) -> Iterator[Row]:
    """Time to the first token, all sides in turn, and the two bars on it."""
    inputs = bench.inputs()
    compared = sides(bench, size)

    @torch.inference_mode()
    def first_token() -> None:
        bench.model(**inputs, use_cache=True, logits_to_keep=1).logits.argmax()

    times: dict[str, list[float]] = {name: [] for name in compared}
    for repeat in range(-1, size.repeats):
        for name, side in compared.items():
            with attached(bench, side):
                [taken] = seconds(first_token, 1, warm_up=repeat < 0)
            if repeat >= 0:
                times[name].append(taken)
    tokens = inputs["input_ids"].shape[1]
    for name, found in times.items():
        with attached(bench, compared[name]):
            peak = peak_gb(first_token)
        note = f"{tokens} tokens" + ("" if peak is None else f"; at most {peak:.1f} GB")
        yield told(f"time to the first token, {name}", bench.name, 1e3 * statistics.median(found), "ms", note)
    dims, first = bench.dims, size.scanned[0]
    stock = (vision(dims) + prompt(dims, tokens)).flops
    kept = [Event(layer, 0.5, 0, "keep") for layer in size.scanned]
    yield Row.at_most(
        NEVER_BAR,
        "prompt pass, never firing / stock",
        bench.name,
        Times(times["never firing"], times["stock"]),
        floor=(vision(dims) + prompt(dims, tokens, kept)).flops / stock,
        note=f"{len(size.scanned)} of {dims.layers} layers scanned",
    )
    for name, module in (("interpolated", NOTHING), ("TokenSR", token_sr_cost(dims))):
        work = prompt(dims, tokens, [Event(first, 1.0, 0, "expand")], expander=module)
        both = Times(times[name], times["stock"])
        yield Row.at_most(
            EXTENSION_BAR,
            f"prompt pass with an extension ({name}): time ratio / FLOP ratio",
            bench.name,
            both,
            floor=(vision(dims) + work).flops / stock,
            over_floor=True,
            note=f"born at layer {first}; time ratio {both.ratio:.3f}",
        )


def decoding(bench: Bench, size: Size) -> Iterator[Row]:
    """Tokens per second behind a prompt, and the most memory of a whole answer."""
    inputs, few = bench.inputs(), max(2, size.repeats // 5)

    def answer(side: Side, tokens: int) -> Callable[[], object]:
        def run() -> object:
            with attached(bench, side), torch.inference_mode():
                return bench.model.generate(
                    **inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens
                )

        return run

    for name, side in sides(bench, size).items():
        short, long = (
            statistics.median(seconds(answer(side, tokens), few)) for tokens in (1, 1 + size.answer)
        )
        peak = peak_gb(answer(side, 1 + size.answer))
        note = "" if peak is None else f"at most {peak:.1f} GB"
        yield told(f"decoding, {name}", bench.name, size.answer / max(long - short, 1e-9), "tokens/s", note)


def waits(bench: Bench, size: Size) -> Iterator[Row]:
    """How often the host waits for the device in a prompt pass, over the stock model's."""
    inputs = bench.inputs()
    scans = len(size.scanned)

    def count(side: Side) -> int:
        with attached(bench, side), torch.inference_mode():
            bench.model(**inputs, use_cache=True, logits_to_keep=1)  # finds out what is kept from then on
            return waits_of(lambda: bench.model(**inputs, use_cache=True, logits_to_keep=1))

    stock = count(None)
    cases: dict[str, tuple[Side, int]] = {
        "nothing can fire (tau_exp=1)": ((Policy.never(size.scanned), None), 1),
        f"{scans} scans that keep": ((Policy(size.scanned, 0.999, 0.0), None), scans),
        f"{scans} scans that expand": ((Policy(size.scanned, 0.0, 0.0), None), scans),
    }
    for name, (side, bar) in cases.items():
        more = count(side) - stock
        what = f"waits of the host in a prompt pass beyond the stock model's {stock}, {name}"
        yield Row(what, bench.name, more, more, more, f"<= {bar}", more <= bar)


def waits_of(run: Callable[[], object]) -> int:
    """How often the host waits for the device; on the CPU, how often it would."""
    if not torch.cuda.is_available():
        with HostReads() as reads:
            run()
        return reads.count
    before = torch.cuda.get_sync_debug_mode()
    torch.set_warn_always(True)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode(before)
        torch.set_warn_always(False)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


class _Detaching:
    """Context that detaches at its end."""

    def __init__(self, bench: Bench, policy: Policy, modules: Any) -> None:
        self._handle = attach(bench.backbone, policy, modules)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._handle.detach()


def attached(bench: Bench, side: Side) -> Any:
    """Context in which the model answers as a side does."""
    return nullcontext() if side is None else _Detaching(bench, *side)
