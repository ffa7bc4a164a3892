"""Training steps of TokenSR at full width: the last scanned layer alone, all of them in one pass, and by DeepSpeed."""

import statistics
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.common import Bench, Row, Times
from benchmarks.gpu.size import Size, device, peak_gb, seconds, told
from benchmarks.training import BAR, Steps, batch_of, module_of
from blink.evaluation.answering.cost import training_step
from blink.model.views import Views

IMAGES = 2
"""Of a step, with four quadrants each: the paper's global batch of 8."""

WHY = (
    "The trunk is shared, the modules are not: each has its own forward and backward pass and AdamW's pass over its weights and "
    "moments, which FLOPs do not count."
)


def steps(bench: Bench, size: Size) -> Iterator[Row]:
    """Seconds and memory of whole steps, and seven layers over one."""
    taken: dict[tuple[int, ...], list[float]] = {}
    for layers in ((size.scanned[-1],), size.scanned):
        step, batch = Steps(module_of(bench, layers)), batch_of(bench, IMAGES)

        def run(step: Steps = step, batch: Views = batch) -> None:
            with torch.autocast(device(), torch.bfloat16, enabled=device() == "cuda"):
                step(batch)

        taken[layers] = seconds(run, max(2, size.repeats // 4))
        peak = peak_gb(run)
        flops = training_step(bench.dims, layers, prefix=35, images=IMAGES).flops
        median = statistics.median(taken[layers])
        note = f"{flops / median / 1e12:.3g} TFLOP/s" + ("" if peak is None else f"; at most {peak:.1f} GB")
        yield told(f"training step of layer(s) {_named(layers)}", bench.name, 1e3 * median, "ms", note)
        del step, run
    one, seven = taken
    floor = _flops(bench, seven) / _flops(bench, one)
    what = f"training step of layers {_named(seven)} / of layer {_named(one)}"
    yield Row.at_most(BAR, what, bench.name, Times(taken[seven], taken[one]), floor=floor)


def deepspeed(bench: Bench, size: Size) -> Iterator[Row]:
    """Two steps under ZeRO-2 in one process, by the trainer's own strategy; the second one counts."""
    import deepspeed as package
    from lightning import Trainer
    from lightning.pytorch.callbacks import Callback, Timer
    from lightning.pytorch.strategies import DeepSpeedStrategy

    assert package.__version__, "imported for its absence to be told"
    layers = (size.scanned[-1],)
    module, batch = module_of(bench, layers), batch_of(bench, IMAGES)
    strategy: Any = DeepSpeedStrategy(stage=2)
    if device() == "cpu":
        from tests.training.deepspeed_cpu import CpuDeepSpeedStrategy

        strategy = CpuDeepSpeedStrategy(stage=2)
    timer, begun = Timer(), list[float]()

    class Begins(Callback):
        """Notes when steps begin."""

        def on_train_batch_start(self, *_: Any) -> None:
            begun.append(timer.time_elapsed("train"))

    before = [weight.detach().clone() for weight in module.token_sr.parameters()]
    trainer = Trainer(
        accelerator=device() if device() == "cpu" else "gpu",
        devices=1,
        strategy=strategy,
        precision="bf16-mixed" if device() == "cuda" else "32-true",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[timer, Begins()],
    )
    try:
        trainer.fit(module, DataLoader([batch] * 3, batch_size=1, collate_fn=_only))  # type: ignore[arg-type]
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    moved = any(
        not torch.equal(old, new.detach().to(old))
        for old, new in zip(before, module.token_sr.parameters(), strict=True)
    )
    taken = 1e3 * (begun[2] - begun[1])
    what = f"training step of layer {_named(layers)}, DeepSpeed ZeRO-2, one process, ms"
    yield Row(what, bench.name, taken, taken, taken, "weights change", moved)


def _only(batches: list[Views]) -> Views:
    return batches[0]


def _named(layers: tuple[int, ...]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def _flops(bench: Bench, layers: tuple[int, ...]) -> int:
    return training_step(bench.dims, layers, prefix=35, images=IMAGES).flops
