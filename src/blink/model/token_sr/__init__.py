"""Token super-resolution: the trained module of one layer (Eq. 4, App. A.1), and expansion of a region with it.

Knows visual tokens as grids of vectors, and no backbone. Read from top to bottom; each design imports `base.py` and
`regions.py` alone, and `expansion.py` is all that the method needs. Modules as files are for those who save and load them:
these two files are imported by name.

    regions.py      cells of a region, cutting it out, resizing it
    resizing.py     a convolution of resized tokens, by products of the tokens before
    base.py         what all designs have in common; what one that needs more than the region is given
    conv.py         the paper's: three convolutions
    residual.py     interpolation plus a correction by convolutions
    mlp.py          interpolation plus a perceptron per token, the paper's future work
    attention.py    interpolation plus what the fine grid fetches from the whole picture
    conditioned.py  interpolation plus a correction that sees the region's encoded crop
    kinds.py        the designs by their names
    expansion.py    cut, resize, refine; checks of modules
    source.py       where trained modules come from: a folder, what ships, or the hub
    files.py        the folder that they are saved in
"""

from .base import LARGEST, Context, Design, check_not_absurd
from .conv import TokenSR
from .expansion import call_module, check_has_layers, check_layer_keys, check_modules, expand, placed
from .kinds import KINDS, design_of, make_token_sr, module_cost
from .regions import Box, check_patches, cut_region, region_box, region_frame, upsample

__all__ = [
    "KINDS",
    "LARGEST",
    "Box",
    "Context",
    "Design",
    "TokenSR",
    "call_module",
    "check_has_layers",
    "check_layer_keys",
    "check_modules",
    "check_not_absurd",
    "check_patches",
    "cut_region",
    "design_of",
    "expand",
    "make_token_sr",
    "module_cost",
    "placed",
    "region_box",
    "region_frame",
    "upsample",
]
