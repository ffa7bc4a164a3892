"""POPE's data as the hub has it and as LLaVA's authors laid it out, a few questions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from blink.bench.base import SHORT_ANSWER
from blink.bench.pope import SPLITS


def hub_rows(pictures: int = 2) -> list[dict[str, Any]]:
    """Rows with the hub's columns, ordered by split as there."""
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        for picture in range(pictures):
            for k, answer in enumerate(("yes", "no")):
                rows.append(
                    {
                        "id": str(len(rows)),
                        "question_id": str(picture * 2 + k + 1),
                        "question": f"Is there a thing{k} in the image?",
                        "answer": answer,
                        "image_source": f"COCO_{picture}",
                        "image": Image.new("RGB", (8, 6), (picture * 10, 0, 0)),
                        "category": split,
                    }
                )
    return rows


def write_llava(root: Path, labels: Mapping[str, list[dict[str, Any]]] | None = None) -> None:
    """LLaVA's layout: a question file with the instruction inside, POPE's labels with ids of their own, pictures."""
    questions = []
    (root / "coco").mkdir(parents=True)
    (root / "val2014").mkdir()
    for number, split in enumerate(SPLITS):
        own = []
        for k, (word, label) in enumerate((("imange", "yes"), ("image", "no"))):
            text = f"Is there a cat in the {word}?"
            name = f"COCO_val2014_{k}.png"
            question_id = number * 10_000_000 + k + 1
            questions.append(
                {"question_id": question_id, "image": name, "text": text + SHORT_ANSWER, "category": split}
            )
            own.append(
                {"question_id": k + 1, "image": name, "text": "Is there a cat in the image?", "label": label}
            )
            Image.new("RGB", (4, 4), (k, 0, 0)).save(root / "val2014" / name)
        lines = "\n".join(json.dumps(row) for row in (labels or {}).get(split, own))
        (root / "coco" / f"coco_pope_{split}.json").write_text(lines)
    (root / "llava_pope_test.jsonl").write_text("\n".join(json.dumps(row) for row in questions) + "\n")
