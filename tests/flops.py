"""FLOPs as torch counts them while something runs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def counted(run: Callable[[], object]) -> int:
    """FLOPs of matrix products, convolutions and attention; torch alone leaves out attention on a CPU."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: _flash_on_cpu}) as counter:
        run()
    return counter.get_total_flops()


def counted_forward(run: Callable[[], object]) -> int:
    """FLOPs of a forward pass, run without gradients."""
    with torch.no_grad():
        return counted(run)


def _flash_on_cpu(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)
