"""DeepSpeed on CPUs over gloo, which Lightning refuses: for tests alone.

Importing this module keeps DeepSpeed from compiling its shared-memory operator, which takes minutes.
"""

from typing import Any

import deepspeed.ops
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class CpuDeepSpeedStrategy(DeepSpeedStrategy):
    """Lightning's strategy without its checks for CUDA."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(process_group_backend="gloo", **settings)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()
