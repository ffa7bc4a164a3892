"""One prompt through LLaVA-1.5-7B's true width, with few layers and random weights: time and memory, here.

    python -m benchmarks.rehearsal --layers 4

Runs the project's own code on the CPU: a stock pass, a pass that scans, and one that scans and expands
through a TokenSR of true width. What the full model would take is estimated by FLOPs (`blink.evaluation.answering.cost`) for time and by
counting bytes for memory; both say so. Nothing is downloaded.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

import blink
from benchmarks.common import bare_command_line
from blink.evaluation.answering.cost import key_value_bytes, prompt, token_sr
from blink.evaluation.planning.presets import preset
from blink.inference.policy import Event
from blink.model.dimensions import BYTES, Dimensions
from blink.model.prompts import template_named
from blink.runs.machine import cpu_has_bfloat16
from tests import models

QUESTION = "Is there a cat in the picture?\nAnswer the question using a single word or phrase."
GB = 1e9


class Rehearsal(NamedTuple):
    """What was measured, and what follows for the full model; seconds and bytes.

    Attributes:
        tokens: of the prompt, visual ones included.
        weights: of the rehearsed model and its TokenSR.
        peak: most memory the process held.
        vision, stock, scanned, expanded: one pass of the vision tower with the projector; one prompt of the stock
            model, with one scanned layer, and with an extension from the middle layer on; the vision tower included.
        full_stock, full_expanded: of the full model; the latter scans the layers of the paper's MME setting and expands
            at the first of them.
        full_weights, full_modules: of the full model, and of the TokenSR modules of that setting.
        full_keys: keys and values of one prompt with that extension.
    """

    tokens: int
    weights: int
    peak: int
    vision: float
    stock: float
    scanned: float
    expanded: float
    full_stock: float
    full_expanded: float
    full_weights: int
    full_modules: int
    full_keys: int


def rehearse(
    family: str = "llava15",
    *,
    layers: int,
    repeats: int = 1,
    hidden: int = 4096,
    vision_layers: int = 24,
    dtype: str = "bfloat16",
) -> Rehearsal:
    """Measure passes of a random model; the fastest of `repeats` counts.

    Args:
        layers: decoder layers, at least 2.
        hidden, vision_layers: true width and depth unless said otherwise; see `models.true_width`.

    Raises:
        ValueError: fewer than 2 layers, or no repeat.
    """
    if layers < 2 or repeats < 1:
        raise ValueError(f"layers={layers}, repeats={repeats}: expected at least 2 and 1")
    torch_dtype: torch.dtype = getattr(torch, dtype)
    model = models.true_width(
        family, layers=layers, dtype=torch_dtype, hidden=hidden, vision_layers=vision_layers
    )
    inputs: Any = models.processor(model)(
        images=models.noise(), text=template_named("vicuna_v1").prompt(QUESTION), return_tensors="pt"
    ).to("cpu", torch_dtype)
    tokens = inputs["input_ids"].shape[1]
    pixels = {key: value for key, value in inputs.items() if key in ("pixel_values", "image_sizes")}
    middle = layers // 2
    module = blink.TokenSR(hidden).to(torch_dtype).requires_grad_(False)

    def one_prompt() -> None:
        model(**inputs, use_cache=True, logits_to_keep=1)

    with torch.inference_mode():
        vision = _seconds(lambda: model.get_image_features(**pixels), repeats)
        stock = _seconds(one_prompt, repeats)
        handle = blink.attach(model, blink.Policy.never([middle]), {middle: module})
        scanned = _seconds(one_prompt, repeats)
        handle.detach()
        handle = blink.attach(model, blink.Policy([middle], tau_exp=0.0, tau_drop=0.0), {middle: module})
        expanded = _seconds(one_prompt, repeats)
        handle.detach()

    few = Dimensions.of(model, dtype)
    full_config = models.published_config(family, hidden=hidden, vision_layers=vision_layers)
    setting = preset("llava15_7b" if family == "llava15" else "llava_next_7b", "mme")
    assert setting is not None, "the paper's backbones have a preset for MME"
    scanned_layers = blink.inference.policy.parse_layers(setting.layers)
    events = [Event(at, 1.0, 0, "expand" if at == scanned_layers[0] else "keep") for at in scanned_layers]
    few_events = [Event(middle, 1.0, 0, "expand")]
    with torch.device("meta"):
        whole = type(model)._from_config(full_config, dtype=torch_dtype)
    full = Dimensions.of(whole, dtype)
    of_module = token_sr(full)
    return Rehearsal(
        tokens=tokens,
        weights=_bytes(model) + _bytes(module),
        peak=_peak(),
        vision=vision,
        stock=stock,
        scanned=scanned,
        expanded=expanded,
        full_stock=vision + (stock - vision) * prompt(full, tokens).flops / prompt(few, tokens).flops,
        full_expanded=vision
        + (expanded - vision)
        * prompt(full, tokens, events, expander=of_module).flops
        / prompt(few, tokens, few_events, expander=of_module).flops,
        full_weights=_bytes(whole),
        full_modules=len(events) * _bytes(module),
        full_keys=key_value_bytes(full, tokens) * full.layers
        + key_value_bytes(full, full.visual) * (full.layers - scanned_layers[0]),
    )


def report(found: Rehearsal, *, family: str, layers: int, console: Console) -> None:
    """Print a rehearsal."""
    table = Table(title=f"{family} at true width, {found.tokens} tokens, {torch.get_num_threads()} threads")
    for column in ("", f"measured, {layers} layers", "estimated, 32 layers"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("vision tower, s", f"{found.vision:.2f}", f"{found.vision:.2f}")
    table.add_row("stock prompt, s", f"{found.stock:.2f}", f"{found.full_stock:.1f}")
    table.add_row("prompt with one scan, s", f"{found.scanned:.2f}", "")
    table.add_row("prompt with an extension, s", f"{found.expanded:.2f}", f"{found.full_expanded:.1f}")
    table.add_row("weights, GB", "", f"{found.full_weights / GB:.1f}")
    table.add_row("TokenSR modules of the MME setting, GB", "", f"{found.full_modules / GB:.1f}")
    table.add_row(
        "weights and modules, GB",
        f"{found.weights / GB:.1f}",
        f"{(found.full_weights + found.full_modules) / GB:.1f}",
    )
    table.add_row("keys and values of the prompt, GB", "", f"{found.full_keys / GB:.2f}")
    table.add_row("most memory of the process, GB", f"{found.peak / GB:.1f}", "")
    console.print(table)
    console.print(
        "Estimated seconds: measured ones times the ratio of FLOPs, vision tower apart; the extension is born at the first "
        "layer of the paper's MME setting and kept. Estimated bytes are counted."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = bare_command_line("rehearsal", __doc__)
    parser.add_argument("--layers", type=int, default=4, help="decoder layers, 0.4 GB each (default 4)")
    parser.add_argument("--family", choices=models.FAMILIES, default="llava15")
    parser.add_argument("--dtype", choices=tuple(BYTES), default="bfloat16")
    parser.add_argument(
        "--repeats", type=int, default=1, help="passes of each kind; the fastest counts (default 1)"
    )
    options = parser.parse_args(arguments)
    if options.layers < 2 or options.repeats < 1:
        parser.error("--layers takes 2 or more, --repeats 1 or more")
    console = Console()
    if options.dtype != "float32" and not cpu_has_bfloat16():
        console.print(
            f"This CPU has no units for {options.dtype}: --dtype float32 may be many times faster here."
        )
    found = rehearse(options.family, layers=options.layers, repeats=options.repeats, dtype=options.dtype)
    report(found, family=f"{options.family} in {options.dtype}", layers=options.layers, console=console)


def _seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def _bytes(module: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
