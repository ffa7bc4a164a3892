"""MME as its authors release it: a folder per subtask with pictures, and for each a text file of questions.

Five subtasks have `images/` and `questions_answers_YN/`; the others are flat. LLaVA's question file has the same
questions in another order and without their closing and answers. Knows nothing of scores.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blink.bench.base import SHORT_ANSWER
from blink.runs.values import UserError

CLOSING = "Please answer yes or no."
"""What every question of MME ends with, after a space (in seven of them after two)."""

_PICTURES = (".jpg", ".jpeg", ".png")


def find_release(root: Path, subtasks: Sequence[str]) -> Path | None:
    """Return the folder at or below `root` that has a folder per subtask; None if there is none."""
    nested = sorted(root.glob("MME_Benchmark*")) + sorted(root.glob("MME_Benchmark*/MME_Benchmark*"))
    for folder in (root, *nested):
        if any((folder / subtask).is_dir() for subtask in subtasks):
            return folder
    return None


def release_rows(release: Path, subtasks: Sequence[str]) -> list[dict[str, Any]]:
    """Read the questions of all subtasks that are there, in the hub's columns but for the picture.

    `question_id` is the picture's path below the release: "count/0001.png", "posters/images/0001.jpg".

    Raises:
        ValueError: a text file has no picture, or a line that is not a question, a tab and an answer; names it.
    """
    return [row for subtask in subtasks if (release / subtask).is_dir() for row in _rows(release, subtask)]


def labelled(asked: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the release that LLaVA's question file asks, in its order.

    Raises:
        ValueError: the release lacks a question; names it.
    """
    known = {(row["category"], Path(row["question_id"]).stem, row["question"]): row for row in rows}
    found = []
    for row in asked:
        text = str(row["text"]).removesuffix(SHORT_ANSWER)
        key = row["category"], Path(row["question_id"]).stem
        match = known.get((*key, f"{text} {CLOSING}")) or known.get((*key, f"{text}  {CLOSING}"))
        if match is None:
            raise UserError(
                f"llava_mme.jsonl asks {text!r} about {row['question_id']}, which the release's text files do not; "
                "take both from one edition"
            )
        found.append(dict(match))
    return found


def _rows(release: Path, subtask: str) -> Iterator[dict[str, Any]]:
    pictures = texts = release / subtask
    if (pictures / "images").is_dir():
        pictures, texts = pictures / "images", pictures / "questions_answers_YN"
    names = {path.stem: path for path in sorted(pictures.iterdir()) if path.suffix.lower() in _PICTURES}
    for path in sorted(texts.glob("*.txt")):
        if path.stem not in names:
            raise UserError(f"{path} asks about a picture that is missing in {pictures}")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            fields = line.strip().split("\t")
            if len(fields) != 2:
                raise UserError(f"{path}, line {number} is not a question, a tab and an answer: {line!r}")
            yield {
                "question_id": names[path.stem].relative_to(release).as_posix(),
                "question": fields[0],
                "answer": fields[1],
                "category": subtask,
            }
