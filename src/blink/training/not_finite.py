"""Ends a training whose numbers are nan or infinite, with a line that says which, in which layer, and of which images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from torch import Tensor, nn

from blink.runs.values import NotFiniteError
from blink.training.features.states import QuadrantFeatures, damaged_images

_SMALLER_STEPS = "the last checkpoint is as it was before; take a smaller optimizer.learning_rate, or trainer.gradient_clip_val=1.0"


def raise_not_finite(
    place: str,
    losses: Mapping[int, Tensor],
    by_grid: Sequence[Mapping[int, QuadrantFeatures]],
    modules: Mapping[int, nn.Module],
    images: Sequence[str],
) -> NoReturn:
    """Find out what is not finite behind a loss: states of the backbone, weights of a module, or the loss alone.

    Args:
        place: when in the run it was, in words.
        losses: layer -> loss; one of them, at least, is not finite.
        by_grid: for each grid layer -> the features that losses were computed from; empty where there were none.
        modules: layer -> its TokenSR.
        images: names of those in the batch.

    Raises:
        NotFiniteError: always.
    """
    layer = next(layer for layer, loss in losses.items() if not loss.isfinite())
    where = f"{place}, layer {layer}"
    damaged = [bad for of_grid in by_grid for bad in damaged_images(of_grid[layer])]
    if any(damaged):
        # of one grid, they are in the order of the names
        of_one_grid = len(damaged) == len(images) and len(by_grid) == 1
        shown = [name for name, bad in zip(images, damaged, strict=True) if bad] if of_one_grid else images
        raise NotFiniteError("hidden states of the backbone", layer=where, sample=_listed(shown))
    what = "losses" if _is_finite(modules[layer]) else "weights of TokenSR"
    raise NotFiniteError(what, layer=where, sample=_listed(images), remedy=_SMALLER_STEPS)


def check_finite_state(place: str, modules: Mapping[int, nn.Module], optimizer_states: Any) -> None:
    """Check what a checkpoint is about to hold.

    Args:
        place: when in the run it is, in words.
        modules: layer -> its TokenSR.
        optimizer_states: as Lightning saves them. DeepSpeed's optimizers nest theirs otherwise than torch's.

    Raises:
        NotFiniteError: a weight, or the optimizer's moment of one, is nan or infinite.
    """
    for layer, module in modules.items():
        if not _is_finite(module):
            raise NotFiniteError("weights of TokenSR", layer=f"{place}, layer {layer}", remedy=_SMALLER_STEPS)
    if not all(moment.isfinite().all() for moment in _tensors(optimizer_states)):
        raise NotFiniteError("moments of the optimizer", layer=place, remedy=_SMALLER_STEPS)


def _is_finite(module: nn.Module) -> bool:
    return all(weight.isfinite().all() for weight in module.parameters())


def _listed(names: Sequence[str]) -> str | None:
    """Names of images as a message shows them."""
    return f"image{'s' * (len(names) > 1)} {', '.join(names)}" if names else None


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
