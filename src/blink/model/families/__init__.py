"""The classes of vision-language models that Blink knows, a short file for each way to place a picture in a prompt.

Read from top to bottom; each of the others imports the first alone.

    base.py         what most models do: spans, base view, grid, positions, visual tokens
    llava.py        LLaVA: one view (CLIP or SigLIP)
    llava_next.py   LLaVA-NeXT, LLaVA-OneVision: a view, then tiles
    internvl.py     InternVL: tiles, then a thumbnail
    smolvlm.py      SmolVLM, Idefics3: tiles that stand apart, then a view
    qwen_vl.py      Qwen2-VL, Qwen2.5-VL, Qwen3-VL: one view of any shape, M-RoPE
"""

from typing import Any

from blink.runs.values import UserError

from .base import Encoded, Family, Grid, Tower, text_positions
from .internvl import InternVL
from .llava import Llava
from .llava_next import LlavaNext
from .qwen_vl import QwenVL
from .smolvlm import SmolVLM

FAMILIES: list[type[Family]] = [Llava, LlavaNext, InternVL, SmolVLM, QwenVL]
"""Families in the order in which a model is looked up; `register` puts others before them."""

ARCHITECTURES: dict[str, Any] = {
    kind.config_class.model_type: kind for family in FAMILIES for kind in family.architectures
}
"""Model type in a checkpoint's config -> class of transformers."""


def register(family: type[Family]) -> type[Family]:
    """Let Blink know a family that is defined elsewhere; also as a decorator. It is asked before all others.

    Raises:
        ValueError: it is no family, or names no classes of models.
    """
    if not (isinstance(family, type) and issubclass(family, Family) and family.architectures):
        raise UserError(
            f"{family!r} is no family: expected a subclass of blink.model.families.Family with `architectures`, the classes of "
            "transformers that it is for"
        )
    if family not in FAMILIES:
        FAMILIES.insert(0, family)
    ARCHITECTURES.update({kind.config_class.model_type: kind for kind in family.architectures})
    return family


def family_of(model: Any) -> Family:
    """The family of a model.

    Raises:
        ValueError: for a model of another class, or a config that the family cannot work with.
    """
    for family in FAMILIES:
        if isinstance(model, family.architectures):
            return family(model)
    inner = getattr(model, "get_base_model", None)
    if inner is not None:
        raise UserError(
            f"the model is a {type(model).__name__} of PEFT; give Blink the model inside, with its adapters in place: "
            "model.get_base_model()"
        )
    known = ", ".join(kind.__name__ for kind in ARCHITECTURES.values())
    raise UserError(f"the model is a {type(model).__name__}; expected one of {known}")


__all__ = [
    "ARCHITECTURES",
    "FAMILIES",
    "Encoded",
    "Family",
    "Grid",
    "Tower",
    "family_of",
    "register",
    "text_positions",
]
