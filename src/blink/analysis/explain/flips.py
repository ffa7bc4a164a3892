"""The questions in which two finished evaluations differ: which they are, and an index of their pages."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf.errors import OmegaConfBaseException
from rich.progress import track

from blink.analysis.explain.answers import Explainer, Explanation, Side
from blink.analysis.explain.page import Links, data_address, page, render
from blink.analysis.kept import Kept, Piece
from blink.bench import Row, Sample
from blink.bench.statistics import McNemar, mcnemar
from blink.evaluation.answering.rows import resume
from blink.evaluation.compare import FinishedRun, check_comparable, read_run
from blink.evaluation.planning.plan import Plan, make_plan
from blink.evaluation.rerun import stored_config
from blink.evaluation.result import SCORES
from blink.inference.policy import Event
from blink.inference.run import Run
from blink.model.token_sr import region_frame
from blink.runs.files import short_digest, write_csv, write_text
from blink.runs.folder import CONFIG_FILE
from blink.runs.signals import finishing_first
from blink.runs.values import DamagedError, UserError

INDEX = "index.html"
PAGES = "pages"
TABLE = "flips.csv"

_THUMBNAIL = 112

_PARTS = "parts"
"""Folder of what the index says of pages that are written, until all are."""


class Flip(NamedTuple):
    """A question that one run has right and the other has not.

    Attributes:
        sample: the question.
        rows: the line of each run's predictions.
    """

    sample: Sample
    rows: tuple[Row, Row]

    @property
    def gained(self) -> bool:
        """Whether it is the second run that has it right."""
        return bool(self.rows[1]["correct"])


class Flips(NamedTuple):
    """Two runs and where they differ.

    Attributes:
        runs: the first and the second; what the second gains or loses.
        plans: their evaluations as planned.
        chosen: the flips to explain, in the runs' order.
        test: how many are gained and lost, and McNemar's exact p.
        asked: how many questions both runs scored.
    """

    runs: tuple[FinishedRun, FinishedRun]
    plans: tuple[Plan, Plan]
    chosen: list[Flip]
    test: McNemar
    asked: int

    @property
    def inputs(self) -> dict[str, Any]:
        """Fingerprints of both runs, by their folders."""
        return {str(run.folder): short_digest((run.folder / SCORES).read_bytes()) for run in self.runs}


class Card(NamedTuple):
    """Entry of the index and of the table for one flip.

    Attributes:
        flip: the question, and the lines of both runs' predictions.
        address: of its page, from the index.
        events: of each answer, taken alone.
        picture: a thumbnail as a `data:` address.
        shape: the picture's width over its height, as CSS writes it.
        region: where the last one lies that was expanded: left, top, width and height in percent of the picture; None if
            none was.
    """

    flip: Flip
    address: str
    events: tuple[Sequence[Event], Sequence[Event]]
    picture: str
    shape: str
    region: tuple[float, float, float, float] | None

    @property
    def actions(self) -> list[str]:
        """The actions of both answers, each once, by which the index filters."""
        return sorted({event.action for events in self.events for event in events}) or ["none"]


def find_flips(folders: Sequence[Path], limit: int) -> Flips:
    """Read two finished runs and find the questions in which they differ; no weight is read.

    Args:
        limit: choose so many at most, spread evenly over all.

    Raises:
        ValueError: there are not two runs, they are about different questions or of different backbones, what they
            were answered from has changed since, or they do not differ.
    """
    if len(folders) != 2:
        raise UserError(
            f"runs names {len(folders)} folders; expected [FOLDER,FOLDER], two finished evaluations"
        )
    first, second = (read_run(folder) for folder in folders)
    if first.label == second.label:
        names = [run.folder.name for run in (first, second)]
        if names[0] == names[1]:
            names = [str(run.folder) for run in (first, second)]
        first, second = (run._replace(label=name) for run, name in zip((first, second), names, strict=True))
    rows = first.rows(), second.rows()
    check_comparable(first, rows[0], second, rows[1])
    plans = _plan(first), _plan(second)
    if plans[0].backbone != plans[1].backbone or plans[0].template != plans[1].template:
        raise UserError(
            f"{first.folder} and {second.folder} are of different backbones ({plans[0].backbone}, "
            f"{plans[0].template.name}; {plans[1].backbone}, {plans[1].template.name}); their answers differ by more than "
            "Blink"
        )
    pairs = list(zip(plans[0].samples, *rows, strict=True))
    scored = [(sample, (a, b)) for sample, a, b in pairs if None not in (a["correct"], b["correct"])]
    flips = [Flip(sample, both) for sample, both in scored if both[0]["correct"] != both[1]["correct"]]
    flips = [flip for flip in flips if not _without_blink(flip.rows, plans)]
    if not flips:
        raise UserError(
            f"{first.folder} and {second.folder} have the same {len(scored)} questions right: there is no flip to explain"
        )
    chosen = [flips[n * len(flips) // limit] for n in range(limit)] if len(flips) > limit else flips
    marks = np.array([[a["correct"], b["correct"]] for _, (a, b) in scored], dtype=bool)
    return Flips((first, second), plans, chosen, mcnemar(marks[:, 0], marks[:, 1]), len(scored))


def write_pages(flips: Flips, folder: Path) -> list[Path]:
    """Answer the chosen questions anew, both ways, and write a page for each and an index; return the files."""
    first = flips.plans[0]
    explainer = Explainer(first.backbone.load(), first.template, _sides(flips))
    kept = Kept(folder / _PARTS, {"runs": flips.inputs, "ids": [flip.sample.id for flip in flips.chosen]})
    if not kept.begun:
        shutil.rmtree(folder / PAGES, ignore_errors=True)
    (folder / PAGES).mkdir(parents=True, exist_ok=True)
    width = max(4, len(str(len(flips.chosen))))
    names = [f"{number:0{width}}.html" for number in range(1, len(flips.chosen) + 1)]
    cards = []
    for number, flip in enumerate(track(flips.chosen, "explaining", transient=True)):
        links = Links(
            before=names[number - 1] if number else None,
            after=names[number + 1] if number + 1 < len(names) else None,
            index=f"../{INDEX}",
        )
        written = partial(_write_page, explainer, flip, links, folder / PAGES / names[number])
        if not (folder / PAGES / names[number]).is_file():
            kept.forget(names[number])
        with finishing_first() as pending:
            piece = kept.piece(names[number], written)
            pending.check(f"{number + 1:,} of {len(names):,} pages are written")
        cards.append(_card(flip, f"{PAGES}/{names[number]}", piece.notes))
    write_text(folder / INDEX, _index(flips, cards))
    write_csv(folder / TABLE, _table(flips, cards))
    kept.remove()
    return [folder / INDEX, folder / TABLE]


def _without_blink(rows: tuple[Row, Row], plans: tuple[Plan, Plan]) -> bool:
    """Whether both answers are the backbone's alone, since the picture is too narrow for Blink: what differs is rounding."""
    narrow = [bool(row.get("without_blink")) for row in rows]
    return any(narrow) and all(
        spared or plan.policy is None for spared, plan in zip(narrow, plans, strict=True)
    )


def _write_page(explainer: Explainer, flip: Flip, links: Links, path: Path) -> Piece:
    """Answer a question both ways and write its page; what the index says about it are the piece's notes."""
    explained = explainer(flip.sample)
    correct = [
        row["correct"] if row["response"] == answer.text else None
        for row, answer in zip(flip.rows, explained.answers, strict=True)
    ]
    text = page(explained, correct=correct, links=links, warnings=_differences(flip, explained))
    write_text(path, text)
    events = [event for answer in explained.answers for event in answer.events]
    expanded = next((event for event in reversed(events) if event.action == "expand"), None)
    patches = next(
        (p for p, answer in zip(explained.patches, explained.answers, strict=True) if answer.events), 2
    )
    return Piece(
        {},
        {
            "events": [[asdict(event) for event in answer.events] for answer in explained.answers],
            "picture": data_address(explained.picture, 2 * _THUMBNAIL),
            "shape": f"{explained.picture.width} / {explained.picture.height}",
            "region": None if expanded is None else _frame(expanded, patches, explained),
        },
    )


def _plan(run: FinishedRun) -> Plan:
    """The plan of a finished run from its saved config, if its inputs have not changed.

    Raises:
        ValueError: its config is missing, or what it was answered from has changed.
    """
    config = stored_config(run.folder, "runs")
    try:
        plan = make_plan(config, [])
    except (KeyError, TypeError, OmegaConfBaseException) as cause:
        raise DamagedError(run.folder / CONFIG_FILE, cause) from cause
    resume(run.folder, plan.samples, inputs=plan.inputs)
    return plan


def _sides(flips: Flips) -> tuple[Side, Side]:
    first, second = (
        Side(run.label, Run(plan.policy, plan.token_sr), plan.benchmark.max_new_tokens)
        for run, plan in zip(flips.runs, flips.plans, strict=True)
    )
    return first, second


def _differences(flip: Flip, explained: Explanation) -> list[str]:
    """Warn where an answer taken alone is not the run's: in low precision, batching with other questions can change it."""
    return [
        f"{answer.side.name} answered “{row['response']}” in its run, and “{answer.text}” now that it is asked alone: "
        "what is shown led to the latter."
        for row, answer in zip(flip.rows, explained.answers, strict=True)
        if row["response"] != answer.text
    ]


def _card(flip: Flip, address: str, notes: Mapping[str, Any]) -> Card:
    first, second = ([Event(**event) for event in events] for events in notes["events"])
    return Card(
        flip,
        address,
        events=(first, second),
        picture=notes["picture"],
        shape=notes["shape"],
        region=notes["region"] and tuple(notes["region"]),
    )


def _frame(event: Event, patches: int, explained: Explanation) -> tuple[float, float, float, float]:
    """A region as `Card.region` says it."""
    left, top, width, height = (100 * part for part in region_frame(event.region, patches, explained.grid))
    return round(left, 3), round(top, 3), round(width, 3), round(height, 3)


def _index(flips: Flips, cards: Sequence[Card]) -> str:
    result = flips.runs[0].result
    shown = _without_common_end([card.flip.sample.question for card in cards])
    return render(
        "index.html",
        title=f"Flips: {flips.runs[0].label} to {flips.runs[1].label}",
        names=[run.label for run in flips.runs],
        about=f"{result.benchmark} ({result.version}), {result.data}, {result.backbone}",
        asked=flips.asked,
        gained=flips.test.only_second,
        lost=flips.test.only_first,
        p=flips.test.p,
        cards=list(zip(cards, shown, strict=True)),
        cut=flips.test.only_second + flips.test.only_first - len(cards),
    )


def _without_common_end(questions: Sequence[str]) -> list[str]:
    """Questions without the last line where all of several have the same one: the benchmark's instruction."""
    parts = [question.strip().rpartition("\n") for question in questions]
    if len(parts) > 1 and parts[0][0] and len({end for _, _, end in parts}) == 1:
        return [start for start, _, _ in parts]
    return [question.strip() for question in questions]


def _table(flips: Flips, cards: Sequence[Card]) -> list[dict[str, str]]:
    """The index as a table."""
    records = []
    for card in cards:
        record = {
            "id": card.flip.sample.id,
            "flip": "gained" if card.flip.gained else "lost",
            "label": card.flip.sample.label,
        }
        for run, row in zip(flips.runs, card.flip.rows, strict=True):
            record[f"{run.label} says"] = row["response"]
        for run, events in zip(flips.runs, card.events, strict=True):
            record[f"{run.label} did"] = " ".join(f"{event.layer}:{event.action}" for event in events)
        records.append(record | {"page": card.address})
    return records
