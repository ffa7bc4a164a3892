"""Muon in the dtype of the weights, matrices of one shape orthogonalised together.

``torch.optim.Muon`` takes matrices one by one and in bfloat16, which a CPU without bfloat16 arithmetic emulates, at
a sixtieth of its speed in float32.

Legend: G matrices of one shape, R <= C their sides.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic Newton-Schulz iteration (Jordan et al., "Muon", 2024)."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, each matrix's update orthogonalised and scaled to the size of AdamW's.

    The same update as ``torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")``, which works in bfloat16.

    Args:
        params: matrices only.
        lr: learning rate; one that suits AdamW suits here.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iterations: int = 5,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "iterations": iterations}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weights in _by_shape(weight for weight in group["params"] if weight.grad is not None):
                updates = []
                for weight in weights:
                    assert weight.grad is not None
                    state = self.state[weight]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(weight)
                    state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                    updates.append(weight.grad.lerp(state["momentum_buffer"], group["momentum"]))
                scale = 0.2 * max(weights[0].shape) ** 0.5
                for weight, update in zip(
                    weights, orthogonalise(torch.stack(updates), group["iterations"]), strict=True
                ):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(update, alpha=group["lr"] * scale)
        return loss


def orthogonalise(matrices_GRC: torch.Tensor, iterations: int) -> torch.Tensor:
    """Bring every singular value of each matrix near 1 (Newton-Schulz, which does not quite converge)."""
    if matrices_GRC.shape[1] > matrices_GRC.shape[2]:
        return orthogonalise(matrices_GRC.mT, iterations).mT
    a, b, c = COEFFICIENTS
    x_GRC = matrices_GRC / matrices_GRC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram_GRR = x_GRC @ x_GRC.mT
        x_GRC = torch.baddbmm(
            x_GRC, torch.baddbmm(gram_GRR, gram_GRR, gram_GRR, beta=b, alpha=c), x_GRC, beta=a
        )
    return x_GRC


def _by_shape(weights: Iterable[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    found = defaultdict(list)
    for weight in weights:
        found[weight.shape].append(weight)
    return list(found.values())
