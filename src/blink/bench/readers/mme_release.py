"""MME as its authors release it: a folder per subtask with pictures, and for each a text file of questions.

Five subtasks have `images/` and `questions_answers_YN/`; the others are flat. Copies exist that have the texts beside
`images/`, or other capitals in these names. LLaVA's question file has the same questions in another order and without
their closing and answers. Knows nothing of scores.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blink.bench.readers.rows import check_cells
from blink.runs.files import numbered_rows, read_text
from blink.runs.inputs.names import left_behind, look_alikes
from blink.runs.inputs.pictures import ENDINGS
from blink.runs.values import UserError

log = logging.getLogger(__name__)

CLOSING = "Please answer yes or no."
"""What every question of MME ends with, after a space (in seven of them after two)."""

_PICTURES, _TEXTS = "images", "questions_answers_yn"
"""Folders of a subtask, in lower case."""


class Asked(NamedTuple):
    """A question of the release.

    Attributes:
        row: the hub's columns but for the picture; `question_id` is the picture's path below the release, such as
            "count/0001.png" or "posters/images/0001.jpg".
        picture: its file.
        where: file and line of the question, for messages.
    """

    row: dict[str, Any]
    picture: Path
    where: str


def find_release(root: Path, subtasks: Sequence[str]) -> Path | None:
    """Return the folder at or below `root` that has a folder per subtask; None if there is none."""
    nested = [folder for folder in _folders(root) if folder.name.startswith("MME_Benchmark")]
    deeper = [
        inner for folder in nested for inner in _folders(folder) if inner.name.startswith("MME_Benchmark")
    ]
    for folder in (root, *nested, *deeper):
        if any(_called(folder, subtask) for subtask in subtasks):
            return folder
    return None


def release_rows(release: Path, subtasks: Sequence[str]) -> list[Asked]:
    """Read the questions of all subtasks that are there.

    Raises:
        UserError: a subtask's folder has no texts, a text has no picture or several, or a line is not a question, a tab and
            an answer; says which.
    """
    return [
        asked
        for subtask in subtasks
        if (folder := _called(release, subtask))
        for asked in _asked(folder, subtask)
    ]


def labelled(questions: Path, release: Iterable[Asked], *, instruction: str) -> list[Asked]:
    """Return those questions of the release that LLaVA's question file asks, in its order.

    Args:
        instruction: what LLaVA puts behind each of them.

    Raises:
        UserError: the release lacks a question; says where it is asked.
    """
    known = {(asked.row["category"], asked.picture.stem, asked.row["question"]): asked for asked in release}
    found = []
    for line, row in numbered_rows(questions):
        where = f"{questions}, line {line}"
        check_cells(row, where, texts=("question_id", "text", "category"))
        text = row["text"].removesuffix(instruction)
        key = row["category"], Path(row["question_id"]).stem
        match = known.get((*key, f"{text} {CLOSING}")) or known.get((*key, f"{text}  {CLOSING}"))
        if match is None:
            raise UserError(
                f"{where} asks {text!r} about {row['question_id']}, which the release's text files do not; take both "
                "from one edition"
            )
        found.append(match)
    return found


def _asked(folder: Path, subtask: str) -> Iterator[Asked]:
    """The questions of a subtask's folder, by text file."""
    of_texts, of_pictures = _called(folder, _TEXTS), _called(folder, _PICTURES)
    texts = _first_files((of_texts, folder, of_pictures), [".txt"])
    if not texts:
        raise UserError(
            f"{folder} has no text files of questions; expected 0001.txt and the like there, or in questions_answers_YN/ "
            "where the pictures are in images/"
        )
    places = [place for place in (of_pictures, folder) if place]
    pictures = _first_files((*places, of_texts), ENDINGS)
    by_stem: dict[str, list[Path]] = {}
    for picture in pictures:
        by_stem.setdefault(picture.stem, []).append(picture)
    for path in texts:
        yield from _of_text(path, by_stem.pop(path.stem, []), places, folder.parent, subtask)
    if by_stem:
        log.warning(
            "%s: %d pictures have no questions, %s for one", folder, len(by_stem), min(by_stem.values())[0]
        )


def _of_text(
    path: Path, pictures: Sequence[Path], places: Sequence[Path], release: Path, subtask: str
) -> Iterator[Asked]:
    """The questions of a text file, which is about one of the pictures, of which there should be one."""
    if not pictures:
        others = [other for other in look_alikes(places, path.name) if other.suffix.lower() != ".txt"]
        known = (
            f"{others[0]} is not one, by its ending" if others else f"looked in {', '.join(map(str, places))}"
        )
        raise UserError(f"{path} asks about a picture that is missing; {known}")
    if len(pictures) > 1:
        raise UserError(
            f"{path} asks about either of {' and '.join(map(str, pictures))}; leave one of them there"
        )
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.strip().split("\t")
        where = f"{path}, line {number}"
        if len(fields) != 2:
            raise UserError(f"{where} is not a question, a tab and an answer: {line!r}")
        row = {
            "question_id": pictures[0].relative_to(release).as_posix(),
            "question": fields[0],
            "answer": fields[1],
            "category": subtask,
        }
        yield Asked(row, pictures[0], where)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _called(folder: Path, name: str) -> Path | None:
    """The folder inside a folder that has this name, in whatever capitals; the name as it is comes first."""
    named = [path for path in _folders(folder) if path.name.lower() == name.lower()]
    return min(named, key=lambda path: path.name != name, default=None)


def _first_files(folders: Iterable[Path | None], endings: Collection[str]) -> list[Path]:
    """The files with one of these endings in the first of the folders that has any, but for what macOS left there."""
    for folder in folders:
        files = folder.iterdir() if folder else ()
        found = sorted(path for path in files if path.suffix.lower() in endings and path.is_file())
        if kept := [path for path in found if not left_behind(path.name)]:
            return kept
    return []
