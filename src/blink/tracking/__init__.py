"""What a run tells a dashboard: Weights & Biases, TensorBoard, a CSV file, or nobody. `docs/wandb.md` lists the names."""

from blink.tracking.board import Board
from blink.tracking.marks import told, write_mark

__all__ = ["Board", "told", "write_mark"]
