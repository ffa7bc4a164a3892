"""What tests of halves side by side share; their fixtures are in conftest.py."""

import torch
from torch import nn

import blink
from blink.inference.engine import Ask
from blink.inference.run import Run
from blink.model.backbone import Backbone
from tests import models

BOTH = {"blink-lane_0", "blink-lane_1"}
MAIN = {"MainThread"}


def asks_of(count: int, runs: list[Run]) -> list[Ask]:
    """Pictures with two prompts each."""
    prompts = [models.prompt(i) for i in range(2)]
    return [Ask(models.picture(number), prompts, runs) for number in range(count)]


def token_sr(backbone: Backbone, bias: float = 0.0) -> nn.Module:
    """A module of ours, whose output a bias is added to."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        module = blink.TokenSR(backbone.hidden_size)
        module.convolutions[-1].bias.add_(bias)  # type: ignore[operator]
    return module.eval()
