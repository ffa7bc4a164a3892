"""A task of lmms-eval on this disk: POPE's questions about scenes, scored by lmms-eval's own POPE."""

from pathlib import Path

from datasets import Dataset, Features, Image, Value

from blink.bench import Pope, Sample

NAME = "pope_on_scenes"

_YAML = """\
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {file}
task: {name}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.pictures
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  top_p: 1.0
  num_beams: 1
  do_sample: false
process_results: !function utils.pope_process_results
metric_list:
  - metric: pope_accuracy
    aggregation: !function utils.pope_aggregate_accuracy
    higher_is_better: true
  - metric: pope_f1_score
    aggregation: !function utils.pope_aggregate_f1_score
    higher_is_better: true
  - metric: pope_precision
    aggregation: !function utils.pope_aggregate_precision
    higher_is_better: true
metadata:
  - version: 0.0
"""

_UTILS = """\
from lmms_eval.tasks.pope.utils import (
    pope_aggregate_accuracy,
    pope_aggregate_f1_score,
    pope_aggregate_precision,
    pope_process_results,
)


def pictures(doc):
    return [doc["image"].convert("RGB")]


def text(doc, *_):
    return doc["question"]
"""


def write_task(folder: Path, images: int) -> list[Sample]:
    """Write the task into a folder, for `--include_path`; its questions, in their order, are returned."""
    samples = Pope(splits="adversarial").from_scenes("test", images)
    rows = [
        {"question_id": each.id, "question": each.question, "answer": each.label, "image": each.load_image()}
        for each in samples
    ]
    features = Features(
        {name: Value("string") for name in ("question_id", "question", "answer")} | {"image": Image()}
    )
    folder.mkdir(parents=True)
    Dataset.from_list(rows, features=features).to_parquet(str(folder / "questions.parquet"))
    (folder / f"{NAME}.yaml").write_text(
        _YAML.format(file=folder / "questions.parquet", name=NAME), encoding="utf-8"
    )
    (folder / "utils.py").write_text(_UTILS, encoding="utf-8")
    return samples
