"""What the families are tried on: text models and vision towers that go together, shapes of pictures, plans."""

from typing import Any

from tests.inference.oracle.comparison import Rig, rig

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llava_clip_full": ("llava", {"grid": 6, "select": "full", "text": "qwen2", "kv_heads": 2}),
    "llava_siglip": ("llava_siglip", {}),
    "llava_siglip_qwen3": ("llava_siglip", {"text": "qwen3", "head_dim": 16, "grid": 5}),
    "llava_next": ("llava_next", {"text": "mistral", "kv_heads": 2}),
    "llava_onevision": ("llava_onevision", {}),
    "internvl": ("internvl", {}),
    "internvl_qwen3": ("internvl", {"text": "qwen3", "grid": 5}),
    "smolvlm": ("smolvlm", {}),
    "idefics3": ("idefics3", {"grid": 5}),
    "qwen2_vl": ("qwen2_vl", {}),
    "qwen2_5_vl": ("qwen2_5_vl", {}),
    "qwen3_vl": ("qwen3_vl", {}),
}
"""Name -> family and arguments of `comparison.rig`."""

SIZES = ((60, 60), (100, 40), (36, 90), (50, 60), (130, 70))
"""Width and height: square, wide, tall, nearly square, large. Qwen's grids have four cells or more on a side."""

SCHEMES = ("append", "region")
"""Of positions."""

CYCLE: dict[str, Any] = {"layers": (0, 2, 3), "schedule": "cycle"}
"""Expand, drop, expand: caches of four lengths, and an extension that lives to the end."""

UNEVEN: dict[str, Any] = {"patches": 4, "interpolate": False}
"""Regions of several sizes, left as they are: extensions of a batch differ in length."""


def named(case: str, **settings: Any) -> Rig:
    """The rig of a case."""
    family, usual = CASES[case]
    return rig(family, **{**usual, **settings})


def size_of(case: str) -> tuple[int, int]:
    """Every other case has a square picture, the others a wide one."""
    return SIZES[list(CASES).index(case) % 2]


def scheme_of(case: str, turn: int = 0) -> str:
    """Every other case has the other scheme of positions; the next turn has them the other way round."""
    return SCHEMES[(list(CASES).index(case) + turn) % 2]
