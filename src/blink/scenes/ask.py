"""Questions about a view, each with its short answer, a full sentence, wrong options, and the box it is about.

A question is asked only where its answer is certain: never about a kind whose presence is doubtful, never about
"the circle" when there are two, never left or right of objects that are nearly level. Questions here are
plain: ``formats.py`` puts them into the words of a benchmark.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from blink.scenes.draw import COLOURS, KINDS, SHAPES, co_occurrence, kind_frequency
from blink.scenes.view import Seen, View

Box = tuple[float, float, float, float]

QUESTION_KINDS = ("existence", "colour", "shape", "count", "where", "relation", "describe")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
MAX_COUNT = 9

NEAR_THIRD = 0.03
"""An object this close to the border of two of the nine places (in sides of the view) has no certain place."""

LEVEL = 0.12
"""Objects closer than this along an axis (in sides of the view) are neither left nor right, above nor below."""

TRIES = 300
"""How often a kind of question is drawn in search of a certain form. One in five draws of most kinds is a yes/no
question, so that 300 draws all but always find one if there is one."""


@dataclass(frozen=True)
class Question:
    """One question about one view.

    Attributes:
        kind: one of ``QUESTION_KINDS``.
        text: the bare question, without a closing instruction.
        answer: the short answer: "Yes", "No", or lower-case words.
        sentence: the same answer as a sentence.
        options: wrong answers, for multiple choice; empty for ``describe``.
        box: pixels (x0, y0, x1, y1) of the object the question is about, in the view's image; None if absent.
        category: POPE's category for absent kinds: "random", "popular" or "adversarial"; else "".
    """

    kind: str
    text: str
    answer: str
    sentence: str
    options: tuple[str, ...]
    box: Box | None
    category: str = ""


def a(*words: str) -> str:
    """Words with their article: "an orange circle"."""
    name = " ".join(words)
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def the(kind: tuple[str, str]) -> str:
    """A kind with its article: "the red circle"."""
    return f"the {' '.join(kind)}"


def place_of(item: Seen) -> str | None:
    """The object's place among the nine of ``PLACES``, or None if it lies too close to a border of two."""
    if any(abs(c - third) < NEAR_THIRD for c in (item.x, item.y) for third in (1 / 3, 2 / 3)):
        return None
    return PLACES[int(item.y * 3) * 3 + int(item.x * 3)]


def present_kinds(seen: View) -> list[tuple[str, str]]:
    """Kinds that are surely in the view, in the order of its objects, without repeats."""
    return list(dict.fromkeys(item.kind for item in seen.objects if item.kind not in seen.doubtful))


def absent_kinds(seen: View, category: str, rng: random.Random, count: int) -> list[tuple[str, str]]:
    """``count`` kinds surely not in the view, chosen as POPE chooses its negatives.

    "random": uniform; "popular": the most frequent kinds of the world; "adversarial": those that co-occur most
    with what is in the view. Ties and near-ties are broken by ``rng``.

    Raises:
        ValueError: for another category.
    """
    present = frozenset(item.kind for item in seen.objects)
    absent = [kind for kind in KINDS if kind not in present and kind not in seen.doubtful]
    rng.shuffle(absent)
    if category == "popular":
        absent.sort(key=lambda kind: -kind_frequency()[kind])
    elif category == "adversarial":
        absent.sort(key=lambda kind: -co_occurrence(kind, present))
    elif category != "random":
        raise ValueError(f"category is {category!r}; expected random, popular or adversarial")
    pool = absent if category == "random" else absent[: 2 * count]
    return rng.sample(pool, count)


def _certain_one(
    items: Iterable[Seen], doubtful_values: set[str], value: Callable[[Seen], str]
) -> list[Seen]:
    """Objects that are alone in having their value (a colour, a shape, a kind), none of it doubtful."""
    items = list(items)
    counts = Counter(value(item) for item in items)
    return [item for item in items if counts[value(item)] == 1 and value(item) not in doubtful_values]


def _alone_by_kind(seen: View) -> list[Seen]:
    return _certain_one(seen.objects, {" ".join(k) for k in seen.doubtful}, lambda item: " ".join(item.kind))


def _yes_no(
    kind: str, text: str, truth: bool, fact: str, denial: str, box: Box | None, category: str = ""
) -> Question:
    answer, other = ("Yes", "No") if truth else ("No", "Yes")
    sentence = f"Yes, {fact}." if truth else f"No, {denial}."
    return Question(kind, text, answer, sentence, (other,), box, category)


def existence(seen: View, wanted: tuple[str, str], category: str = "") -> Question:
    """ "Is there a red circle in the image?" about a kind that is surely present or surely absent."""
    boxes = [item.box for item in seen.objects if item.kind == wanted]
    return _yes_no(
        "existence",
        f"Is there {a(*wanted)} in the image?",
        bool(boxes),
        f"there is {a(*wanted)}",
        f"there is no {' '.join(wanted)}",
        boxes[0] if boxes else None,
        category,
    )


def _existence(seen: View, rng: random.Random) -> Question | None:
    if rng.random() < 0.5:
        kinds = present_kinds(seen)
        return existence(seen, rng.choice(kinds)) if kinds else None
    category = rng.choice(("random", "popular", "adversarial", "adversarial"))
    return existence(seen, absent_kinds(seen, category, rng, 1)[0], category)


def _attribute(seen: View, rng: random.Random, attribute: str) -> Question | None:
    """Colour of the only object of a shape, or shape of the only object of a colour."""
    colour_asked = attribute == "colour"
    doubtful = {kind[1 if colour_asked else 0] for kind in seen.doubtful}
    alone = _certain_one(seen.objects, doubtful, lambda item: item.shape if colour_asked else item.colour)
    if not alone:
        return None
    item = rng.choice(alone)
    known = item.shape if colour_asked else f"{item.colour} object"
    answer = item.colour if colour_asked else item.shape
    word = "color" if colour_asked else "shape"
    others = [value for value in (COLOURS if colour_asked else SHAPES) if value != answer]
    if rng.random() < 0.2:
        claimed = answer if rng.random() < 0.5 else rng.choice(others)
        claim = claimed if colour_asked else a(claimed)
        fact, denial = f"the {known} is {claim}", f"the {known} is not {claim}"
        return _yes_no(attribute, f"Is the {known} {claim}?", claimed == answer, fact, denial, item.box)
    text = rng.choice((f"What {word} is the {known}?", f"What is the {word} of the {known}?"))
    sentence = f"The {known} is {answer if colour_asked else a(answer)}."
    return Question(attribute, text, answer, sentence, tuple(others), item.box)


def _count(seen: View, rng: random.Random) -> Question | None:
    by_shape = rng.random() < 0.5
    values = list(SHAPES if by_shape else COLOURS)
    tally = Counter(item.shape if by_shape else item.colour for item in seen.objects)
    doubtful = {kind[1 if by_shape else 0] for kind in seen.doubtful}
    if rng.random() < 0.1:
        certain = [value for value in values if value not in doubtful]
    else:  # weigh larger counts up, or nearly every answer would be 1
        certain = [
            value
            for value in values
            if tally[value] and value not in doubtful
            for _ in range(tally[value] ** 2)
        ]
    if not certain:
        return None
    value = rng.choice(certain)
    number = tally[value]
    box = next((i.box for i in seen.objects if (i.shape if by_shape else i.colour) == value), None)
    others = sorted((n for n in range(MAX_COUNT + 1) if n != number), key=lambda n: abs(n - number))[:4]
    if rng.random() < 0.2:
        claimed = number if rng.random() < 0.5 else rng.choice(others[:2])
        phrase = f"{claimed} {_plural(value, by_shape, claimed)}"
        verb = "is" if claimed == 1 else "are"
        text = f"{verb.capitalize()} there {phrase} in the image?"
        return _yes_no(
            "count", text, claimed == number, f"there {verb} {phrase}", f"there {verb} not {phrase}", box
        )
    text = f"How many {_plural(value, by_shape, 2)} are there in the image?"
    verb = "is" if number == 1 else "are"
    sentence = f"There {verb} {number} {_plural(value, by_shape, number)}."
    return Question("count", text, str(number), sentence, tuple(map(str, others)), box)


def _plural(value: str, by_shape: bool, number: int) -> str:
    noun = value if by_shape else "object"
    ending = "" if number == 1 else ("es" if noun == "cross" else "s")
    return f"{noun}{ending}" if by_shape else f"{value} {noun}{ending}"


def _where(seen: View, rng: random.Random) -> Question | None:
    placed = [item for item in _alone_by_kind(seen) if place_of(item)]
    if not placed:
        return None
    item = rng.choice(placed)
    place = place_of(item)
    assert place is not None
    others = tuple(other for other in PLACES if other != place)
    if rng.random() < 0.2:
        claimed = place if rng.random() < 0.5 else rng.choice(others)
        fact = f"{the(item.kind)} is at the {claimed}"
        text = f"Is {the(item.kind)} at the {claimed} of the image?"
        return _yes_no("where", text, claimed == place, fact, fact.replace(" is ", " is not "), item.box)
    text = f"Where is {the(item.kind)} in the image?"
    sentence = f"The {' '.join(item.kind)} is at the {place} of the image."
    return Question("where", text, place, sentence, others, item.box)


SIDES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def _relation(seen: View, rng: random.Random) -> Question | None:
    alone = _alone_by_kind(seen)
    horizontal = rng.random() < 0.5
    pairs = [
        (first, second)
        for first in alone
        for second in alone
        if first is not second and abs(first.x - second.x if horizontal else first.y - second.y) >= LEVEL
    ]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    before, after = ("left", "right") if horizontal else ("above", "below")
    side = before if (first.x < second.x if horizontal else first.y < second.y) else after
    other = after if side == before else before
    if rng.random() < 0.5:
        claimed = rng.choice((side, other))
        text = f"Is {the(first.kind)} {SIDES[claimed]} {the(second.kind)}?"
        fact = f"{the(first.kind)} is {SIDES[side]} {the(second.kind)}"
        return _yes_no("relation", text, claimed == side, fact, fact, first.box)
    if horizontal:
        text = f"Is {the(first.kind)} to the left or to the right of {the(second.kind)}?"
    else:
        text = f"Is {the(first.kind)} above or below {the(second.kind)}?"
    sentence = f"The {' '.join(first.kind)} is {SIDES[side]} {the(second.kind)}."
    return Question("relation", text, side, sentence, (other,), first.box)


def _describe(seen: View, rng: random.Random) -> Question | None:
    """All objects in reading order (by rows of the nine places), so that the sentence is one and only one."""
    if not seen.objects or seen.doubtful or len(seen.objects) > 6:
        return None
    ordered = sorted(seen.objects, key=lambda item: (int(item.y * 3), item.x))
    names = [a(*item.kind) for item in ordered]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    text = rng.choice(("What is in the image?", "Describe the image."))
    return Question("describe", text, listed, f"There is {listed}.", (), ordered[0].box)


_ASK: dict[str, Callable[[View, random.Random], Question | None]] = {
    "existence": _existence,
    "colour": lambda seen, rng: _attribute(seen, rng, "colour"),
    "shape": lambda seen, rng: _attribute(seen, rng, "shape"),
    "count": _count,
    "where": _where,
    "relation": _relation,
    "describe": _describe,
}


def ask(seen: View, kind: str, rng: random.Random) -> Question | None:
    """One question of a kind about a view, or None where no certain one can be asked.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in _ASK:
        raise ValueError(f"question kind is {kind!r}; expected one of {', '.join(QUESTION_KINDS)}")
    return _ASK[kind](seen, rng)


def ask_many(seen: View, kind: str, rng: random.Random) -> Iterator[Question]:
    """Up to ``TRIES`` questions of a kind about a view, repeats among them; fewer where none can be asked."""
    drawn = (ask(seen, kind, rng) for _ in range(TRIES))
    return (question for question in drawn if question is not None)


def is_closed(question: Question) -> bool:
    """Whether the answer is yes or no."""
    return question.answer in ("Yes", "No")
