"""Closed answers: yes or no, and multiple choice with its options, the letter that a response means, and rotations.

Reading a letter follows VLMEvalKit's rules for matching without a judge (`vlmeval/utils/matching_util.py` and the
exact-matching branch of `vlmeval/dataset/utils/multiple_choice.py`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from blink.bench.base import Row
from blink.bench.readers.tables import cell_number, cell_text
from blink.runs.values import UserError
from blink.scenes.mmbench import ROTATION

OPTION_LETTERS = ("A", "B", "C", "D", "E")
REFUSED = "Z"
"""What a refusal is read as: an answer, and always a wrong one."""
UNDECIDED = ""
"""What a response is read as that names no option, or several."""


_FAILED_CALL = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATED = re.compile(r"answer\s+is\s+\**([A-D])\**", flags=re.IGNORECASE)
_LAST_TOKENS = 4


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a row by letter: its columns A to E, up to the first that holds none."""
    found = {}
    for letter in OPTION_LETTERS:
        option = cell_text(row.get(letter))
        if option is None:
            break
        found[letter] = option
    return found


def yes_or_no(label: Any, key: str) -> str:
    """Return a label in lower case.

    Raises:
        ValueError: it is neither yes nor no; names the question.
    """
    found = str(label).strip().lower()
    if found not in ("yes", "no"):
        raise UserError(f"question {key} has the label {label!r}; expected yes or no")
    return found


def check_label(label: Any, key: str, letters: Sequence[str] = OPTION_LETTERS) -> None:
    """Raise a ValueError that names the question unless its label is one of the letters."""
    if label not in letters:
        raise UserError(f"question {key} has the label {label!r}; expected one of {', '.join(letters)}")


def infer(response: str, options: Mapping[str, str]) -> str:
    """Read the letter that a response means, without a judge.

    In this order: a refusal phrase is `REFUSED`; a letter that is the only option letter among the response's words,
    and first comes among the last four of them, wins, punctuation aside (a lone Z is `REFUSED`); then "answer is X";
    then the only option whose text the response contains, whatever the case, unless the response is more than twice
    as long as all options together.

    Args:
        options: the options' texts by letter; a text may be empty where it is not known, and is then not looked for.

    Returns:
        A letter of `options`, `REFUSED` or `UNDECIDED`.
    """
    if _FAILED_CALL in response:
        letter = UNDECIDED
    elif any(phrase in response for phrase in _REFUSALS):
        letter = REFUSED
    else:
        letter = _lone_letter(response, options) or _stated_letter(response, options)
    return letter or _by_text(response, options)


def by_question(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Group rows by their question, `index` modulo `ROTATION`, in order of first appearance."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(cell_number(row["index"], "index") % ROTATION, []).append(row)
    return groups


def clusters_of(groups: Sequence[int], pictures: Sequence[str]) -> list[str]:
    """Name the cluster that each row belongs to: its picture, or one name for all pictures that share a question.

    The rows of a question show one picture; where it comes under several names (its files differ), pictures are joined
    into one cluster, since CircularEval needs all rows of a question in one cluster.

    Args:
        groups: the question of each row.
        pictures: the picture of each row.
    """
    tied: dict[str, str] = {}

    def first(name: str) -> str:  # root of a union-find over picture names
        while name in tied:
            name = tied[name]
        return name

    shown: dict[int, str] = {}
    for group, picture in zip(groups, pictures, strict=True):
        one, other = first(shown.setdefault(group, picture)), first(picture)
        if one != other:
            tied[other] = one
    return [first(picture) for picture in pictures]


def _lone_letter(response: str, options: Mapping[str, str]) -> str:
    words = response.translate(_PUNCTUATION).split()
    present = [letter for letter in options if letter in words]
    if len(present) == 1 and words.index(present[0]) >= len(words) - _LAST_TOKENS:
        return present[0]
    return REFUSED if not present and REFUSED in words else UNDECIDED


def _stated_letter(response: str, options: Mapping[str, str]) -> str:
    stated = _STATED.search(response)
    letter = stated.group(1).upper() if stated else UNDECIDED
    return letter if letter in options else UNDECIDED


def _by_text(response: str, options: Mapping[str, str]) -> str:
    said = response.lower()
    if len(said) > 2 * sum(map(len, options.values())):
        return UNDECIDED
    contained = [letter for letter, option in options.items() if option and option.lower() in said]
    return contained[0] if len(contained) == 1 else UNDECIDED
