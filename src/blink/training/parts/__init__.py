"""Makes the trainer, images, features and module of a training run from its plan; what needs no weights is checked first.

Apart from `plan.py`, which imports neither torch nor Lightning. Read from top to bottom: a file imports only from files
above it.

    modules.py  the modules that are trained or measured beside, and the backbone below them
    images.py   images, questions about them, and where features of them are stored
    trainer.py  Lightning's trainer, and what of its settings is checked
"""

from blink.training.parts.images import find_images
from blink.training.parts.modules import load_norms, load_trunk, save_modules, training_module, weight_shapes
from blink.training.parts.trainer import check, check_length, fitting

__all__ = [
    "check",
    "check_length",
    "find_images",
    "fitting",
    "load_norms",
    "load_trunk",
    "save_modules",
    "training_module",
    "weight_shapes",
]
