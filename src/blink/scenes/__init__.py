"""The embedded world: pictures of coloured shapes, questions about them, and a tiny LLaVA trained on both.

Reading order: ``draw`` (pictures), ``view`` (what a picture or a zoomed quadrant shows), ``ask`` (questions),
``formats`` (benchmark wordings), ``pictures`` and ``schemas`` (data sets), ``tiny`` (the untrained backbone),
``packed`` and ``lessons`` (training batches), ``stages``, ``train``, ``accuracy``.
"""

from blink.scenes.pictures import SPLIT_SIZE, SceneImages
from blink.scenes.schemas import gqa_rows, mmbench_rows, mme_rows, mmvet_rows, pope_rows, scienceqa_rows

__all__ = [
    "SPLIT_SIZE",
    "SceneImages",
    "gqa_rows",
    "mmbench_rows",
    "mme_rows",
    "mmvet_rows",
    "pope_rows",
    "scienceqa_rows",
]
