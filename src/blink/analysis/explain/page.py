"""Explanations as pages: one file each that needs no network, with all numbers embedded as JSON.

Whatever comes from outside (questions, answers, names) is escaped, in the text and in the JSON.
"""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from blink.analysis.explain.answers import Answered, Explanation
from blink.inference.boxes import regions_in_words

_TEMPLATES = Path(__file__).parent / "templates"
_WIDEST = 672
"""Pixels; LLaVA sees 336."""


@dataclass(frozen=True)
class Links:
    """Addresses of the page before, of the page after, and of the index, as seen from a page; None where there is none."""

    before: str | None
    after: str | None
    index: str


class _Cost(NamedTuple):
    """A row of the table of costs: a cell for each answer, and the ratio of each but the first to the first."""

    name: str
    cells: list[str]
    ratios: list[str]


def page(
    explained: Explanation,
    *,
    correct: Sequence[bool | None] | None = None,
    links: Links | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Return the page of one explanation.

    Args:
        correct: whether each answer is right, None where nobody knows, or for all.
        links: of a page among others; None for one that stands alone.
        warnings: said above the pictures.
    """
    data = page_data(explained, correct)
    return render(
        "page.html",
        data=data,
        picture=data_address(explained.picture, _WIDEST),
        title=_short(explained.sample.question),
        costs=_costs(explained.answers),
        links=links,
        warnings=warnings,
    )


def page_data(explained: Explanation, correct: Sequence[bool | None] | None = None) -> dict[str, Any]:
    """Return all numbers of an explanation as JSON values: what its page shows, and what others may read.

    Regions are row-major, and `cuts` says where their rows and columns end, in fractions; saliency and attention are row-major over the grid; the box is left, top, width and height
    in fractions of the picture.
    """
    picture = explained.picture
    watched = [word.token for word in explained.answers[0].layers[0].words]
    policies = [answer.side.run.policy for answer in explained.answers]
    return {
        "id": explained.sample.id,
        "question": explained.sample.question,
        "label": explained.sample.label,
        "backbone": explained.backbone,
        "grid": list(explained.grid),
        "picture": {"width": picture.width, "height": picture.height},
        "box": _fractions(explained),
        "saliency": next((policy.saliency for policy in policies if policy is not None), "attention"),
        "watched": [explained.words[token] for token in watched],
        "answers": [
            _answer(explained, number, mark)
            for number, mark in enumerate([None for _ in explained.answers] if correct is None else correct)
        ],
    }


def render(template: str, **values: Any) -> str:
    """Fill in one of the templates; whatever it is given is escaped."""
    return environment(_TEMPLATES).get_template(template).render(**values)


def data_address(picture: Image.Image, widest: int) -> str:
    """Return a picture as a `data:` address, at most `widest` pixels wide and high: PNG if small, else JPEG."""
    small = picture.copy()
    small.thumbnail((widest, widest))
    kind = "png" if max(small.size) <= 128 else "jpeg"
    stream = io.BytesIO()
    small.save(stream, kind, **({"quality": 88} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def flops_in_words(flops: float | None) -> str:
    """Return a number of FLOPs with a fitting prefix and three digits; None says that they are not counted."""
    if flops is None:
        return "FLOPs not counted"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if flops >= factor:
            return f"{flops / factor:.3g} {prefix}FLOP"
    return f"{flops:.0f} FLOP"


def _answer(explained: Explanation, number: int, correct: bool | None) -> dict[str, Any]:
    answer, words = explained.answers[number], explained.words
    policy = answer.side.run.policy
    return {
        "name": answer.side.name,
        "text": answer.text,
        "correct": correct,
        "tokens": len(answer.ids),
        "prompt_tokens": answer.prompt_tokens,
        "token_layers": answer.token_layers,
        "flops": answer.flops,
        "seconds": answer.seconds,
        "patches": explained.patches[number],
        "cuts": [_cuts(cells, explained.patches[number]) for cells in explained.grid],
        "right": explained.right[number],
        "thresholds": None if policy is None else list(policy.thresholds),
        "schedule": None if policy is None else policy.schedule,
        "settings": _settings(answer),
        "layers": [
            {
                "layer": one.layer,
                "ratio": round(one.ratio, 6),
                "region": one.region,
                "action": None if one.event is None else one.event.action,
                "acted": None if one.event is None else one.event.region,
                "extension": None if one.extension is None else list(one.extension),
                "columns": one.columns,
                "shares": {name: round(share, 6) for name, share in one.shares._asdict().items()},
                "saliency": _digits(one.saliency_V.tolist()),
                "extended": _digits(one.extension_X.tolist()),
                "words": [round(word.probability, 6) for word in one.words],
                "top": {
                    "text": words[one.top.token],
                    "probability": round(one.top.probability, 6),
                },
            }
            for one in answer.layers
        ],
    }


def _cuts(cells: int, patches: int) -> list[float]:
    """Where the regions of a side of the grid begin and end, in fractions of it."""
    return [round(part * cells // patches / cells, 6) for part in range(patches + 1)]


def _settings(answer: Answered) -> str:
    """A policy in words."""
    policy, modules = answer.side.run.policy, answer.side.run.token_sr
    if policy is None:
        return "the backbone as it is"
    above, below = policy.thresholds
    parts = [
        f"layers {', '.join(map(str, policy.layers))}",
        f"expand above {above:g}",
        f"drop below {below:g}",
        f"{policy.patches} x {policy.patches} regions",
        "encoded anew"
        if policy.source == "encode"
        else "interpolation only"
        if modules is None
        else "TokenSR",
    ]
    usual = {
        "saliency": "attention",
        "selector": "saliency",
        "schedule": "threshold",
        "interpolate": True,
        "positions": "append",
        "scale_tau": True,
    }
    parts += [
        f"{name}={getattr(policy, name)}" for name, value in usual.items() if getattr(policy, name) != value
    ]
    return ", ".join(parts)


def _costs(answers: Sequence[Answered]) -> list[_Cost]:
    rows: tuple[tuple[str, Sequence[float | None], Callable[[Any], str]], ...] = (
        ("prompt tokens", [answer.prompt_tokens for answer in answers], "{:,}".format),
        ("prompt tokens, summed over layers", [answer.token_layers for answer in answers], "{:,}".format),
        ("answer tokens", [len(answer.ids) for answer in answers], "{:,}".format),
        ("FLOPs", [answer.flops for answer in answers], flops_in_words),
        ("seconds", [answer.seconds for answer in answers], "{:.2f}".format),
    )
    return [
        _Cost(name, [in_words(value) for value in values], [_ratio(values[0], value) for value in values[1:]])
        for name, values, in_words in rows
        if name != "seconds" or None not in values
    ]


def _ratio(first: float | None, other: float | None) -> str:
    return "" if not first or other is None else f"{other / first:.3f}"


def _fractions(explained: Explanation) -> list[float] | None:
    """The box as left, top, width and height in fractions of the picture, cut off at its edges."""
    if explained.box is None:
        return None
    width, height = explained.picture.size
    left, top, right, bottom = (
        min(1.0, max(0.0, edge / side))
        for edge, side in zip(explained.box, (width, height, width, height), strict=True)
    )
    return [round(value, 5) for value in (left, top, right - left, bottom - top)]


def _digits(values: Sequence[float]) -> list[float]:
    """Three digits of each value are more than a colour shows."""
    return [float(f"{value:.3g}") if math.isfinite(value) else 0.0 for value in values]


def _short(question: str) -> str:
    line = question.strip().partition("\n")[0]
    return line if len(line) <= 80 else f"{line[:79]}…"


@lru_cache
def environment(folder: Path) -> Environment:
    """The templates of a folder: values are escaped, and one that is missing is an error."""
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["flops"] = flops_in_words
    made.globals["regions"] = regions_in_words
    made.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return made
