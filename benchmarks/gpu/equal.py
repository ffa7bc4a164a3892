"""Whether the numbers are right on this device: a never-firing pass against the stock model, a firing one against the oracle."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from benchmarks.common import Bench, Row
from benchmarks.gpu.size import Size, device
from blink import Policy, attach
from blink.inference.engine.sharing.partial import attend, equals_plain, plain
from tests import models
from tests.inference.oracle import literal
from tests.inference.oracle.comparison import MARGIN, TOLERANCE
from tests.inference.oracle.pictures import see

ATTENTIONS = ("sdpa", "flash_attention_2")

WHY = (
    "Never firing, the same kernels run on the same numbers: a difference means that a mask or a position is another. Firing, "
    "sums are added in another order than on the CPU."
)


def logits(bench: Bench, size: Size) -> Iterator[Row]:
    """Never-firing against stock at full size, by each attention that is installed; firing against the oracle, small."""
    inputs = bench.inputs()
    for attention in ATTENTIONS:
        what = f"largest difference of a logit, never firing / stock, {attention}"
        if attention == "flash_attention_2" and not (is_flash_attn_2_available() and device() == "cuda"):
            yield Row(what, bench.name, 0, 0, 0, "0", True, None, "skipped: flash_attn is not installed")
            continue
        with of_attention(bench.model, attention), torch.inference_mode():
            stock = bench.model(**inputs).logits
            handle = attach(bench.model, Policy.never(size.scanned))
            worst = float((bench.model(**inputs).logits - stock).abs().max())
            handle.detach()
        yield Row(what, bench.name, worst, worst, worst, "0", worst == 0)
    yield against_oracle(samples=6)
    yield from kernel(bench)


def kernel(bench: Bench) -> Iterator[Row]:
    """The engine's attention to keys that rows share, by this device's kernel, against plain products in float32."""
    config = bench.model.config.text_config
    A, E = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    for dtype in (torch.float32, bench.model.dtype):
        query, keys, values = (torch.randn(2, A, 40, E).to(device(), dtype) for _ in range(3))
        worst = 0.0
        for causal in (False, True):
            mean, _ = attend(query.transpose(1, 2), keys, values, E**-0.5, causal=causal)
            want, _ = plain(query, keys, values, None, causal, E**-0.5)
            worst = max(worst, float((mean.transpose(1, 2).float() - want.float()).abs().max()))
        bar = 1e-4 if dtype == torch.float32 else 0.02
        used = device() == "cpu" or equals_plain(torch.device(device()), dtype, E)
        yield Row(
            "largest difference of the engine's attention from plain products",
            f"{A} heads of {E}, {str(dtype).removeprefix('torch.')}",
            worst,
            worst,
            worst,
            f"<= {bar:g}",
            worst <= bar,
            None,
            "torch's kernel"
            if used
            else "plain products in place of torch's kernel, which does not fit this device",
        )


def against_oracle(samples: int) -> Row:
    """Firing policies on a small float32 model on this device, against the literal Algorithm 1 on the CPU."""
    worst, compared, actions = 0.0, 0, set[str]()
    twin: Any = models.llava(layers=5)
    model: Any = models.llava(layers=5).to(device())
    with full_precision():
        for seed in range(samples):
            plan = literal.Plan((0, 2, 3), tau_exp=(0.0, 0.35, 0.5)[seed % 3], tau_drop=(0.0, 0.3)[seed % 2])
            inputs = models.batch(twin, [seed])
            expected = literal.run(twin, inputs["input_ids"][0], see(twin, inputs), plan)
            if min(step.margin for step in expected.steps) < MARGIN:
                continue
            handle = attach(model, Policy(plan.layers, plan.tau_exp, plan.tau_drop))
            with torch.inference_mode():
                found = model(**{name: value.to(device()) for name, value in inputs.items()}).logits[0].cpu()
            same = [event.action for event in handle.trace[0]] == [step.action for step in expected.steps]
            handle.detach()
            difference = (found - expected.logits_SW).abs().max() / expected.logits_SW.abs().max()
            worst = max(worst, float(difference) if same else float("inf"))
            compared += 1
            actions |= {step.action for step in expected.steps}
    return Row(
        "largest difference of a logit, firing / Algorithm 1 read literally, as a share of the largest",
        "small, float32",
        worst,
        worst,
        worst,
        f"<= {TOLERANCE:g}",
        worst <= TOLERANCE and compared > 0,
        None,
        f"{compared} samples; {', '.join(sorted(actions))}",
    )


@contextmanager
def of_attention(model: Any, attention: str) -> Iterator[None]:
    """Inside, the text model attends by this implementation."""
    config = model.config.text_config
    before = config._attn_implementation
    model.set_attn_implementation({"text_config": attention})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, a GPU multiplies float32 as float32, in convolutions, too."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
