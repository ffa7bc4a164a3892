"""Benchmarks on scenes, one file each: rows in the columns of the benchmark's official edition, from a seed."""

from blink.scenes.schemas.gqa import gqa_rows
from blink.scenes.schemas.mmbench import mmbench_rows
from blink.scenes.schemas.mme import mme_rows
from blink.scenes.schemas.mmvet import mmvet_rows
from blink.scenes.schemas.pope import POPE_CATEGORIES, pope_rows
from blink.scenes.schemas.scienceqa import scienceqa_rows

__all__ = [
    "POPE_CATEGORIES",
    "gqa_rows",
    "mmbench_rows",
    "mme_rows",
    "mmvet_rows",
    "pope_rows",
    "scienceqa_rows",
]
