"""What the other families are tried on: text models and vision towers that go together, and shapes of pictures."""

from typing import Any

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
