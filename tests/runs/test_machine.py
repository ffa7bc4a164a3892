"""What a machine computes fast, and the default that follows from it."""

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from blink.runs import machine as hardware
from blink.runs.folder import CONF_DIR


@pytest.mark.parametrize(("units", "dtype"), [({"avx2": True}, "float32"), ({"amx_bf16": True}, "bfloat16")])
def test_a_cpu_that_emulates_bfloat16_computes_in_float32(
    units: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a backbone of full size that runs many times slower than it could, and an override that loses."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert hardware.default_dtype() == dtype
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        chosen: Any = compose("train", overrides=["layer=1", "model=llava15_7b"])
        overridden = compose("train", overrides=["layer=1", "model=llava15_7b", "model.dtype=float16"])
    assert chosen.model.dtype == dtype
    assert overridden.model.dtype == "float16"
