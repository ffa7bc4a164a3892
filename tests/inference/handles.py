"""What tests of an attached model share: policies, and the logits of a forward."""

from typing import Any

import torch
from torch import Tensor

import blink

ALWAYS = blink.Policy(layers=[1, 3], tau_exp=0, tau_drop=0)

NEVER = blink.Policy(layers=[0, 1, 2, 3], tau_exp=1, tau_drop=0)

RANDOM = blink.Policy(layers=[0, 1, 2, 3], selector="random", schedule="random")


def logits_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of a plain forward."""
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits
    return logits
