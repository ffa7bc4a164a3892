"""The questions in which two finished evaluations differ: which they are, and an index of their pages."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from rich.progress import track

from blink.analysis.explain.answers import Explainer, Explanation, Side
from blink.analysis.explain.page import data_address, page, render
from blink.bench import Row, Sample
from blink.bench.statistics import McNemar, mcnemar
from blink.evaluation.answerers import load_checkpoint
from blink.evaluation.compare import Run, check_comparable, read_run
from blink.evaluation.plan import Plan, make_plan
from blink.evaluation.predict import resume
from blink.inference.algorithm import Run as How
from blink.runs.files import write_text
from blink.runs.folder import CONFIG_FILE

INDEX = "index.html"
PAGES = "pages"
TABLE = "flips.csv"

_THUMBNAIL = 112


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
        plans: what they were asked to do.
        chosen: the flips to explain, in the runs' order.
        test: how many are gained and lost, and McNemar's exact p.
        asked: how many questions both runs scored.
    """

    runs: tuple[Run, Run]
    plans: tuple[Plan, Plan]
    chosen: list[Flip]
    test: McNemar
    asked: int


def find_flips(folders: Sequence[Path], limit: int) -> Flips:
    """Read two finished runs and find the questions in which they differ; no weight is read.

    Args:
        limit: choose so many at most, spread evenly over all.

    Raises:
        ValueError: there are not two runs, they are about different questions or of different backbones, what they
            were answered from has changed since, or they do not differ.
    """
    if len(folders) != 2:
        raise ValueError(
            f"runs names {len(folders)} folders; expected [FOLDER,FOLDER], two finished evaluations"
        )
    first, second = (read_run(folder) for folder in folders)
    if first.label == second.label:
        first, second = (run._replace(label=run.folder.name) for run in (first, second))
    rows = first.rows(), second.rows()
    check_comparable(first, rows[0], second, rows[1])
    plans = _plan(first), _plan(second)
    if plans[0].backbone != plans[1].backbone or plans[0].template != plans[1].template:
        raise ValueError(
            f"{first.folder} and {second.folder} are of different backbones ({plans[0].backbone}, "
            f"{plans[0].template.name}; {plans[1].backbone}, {plans[1].template.name}); their answers differ by more than "
            "Blink"
        )
    pairs = list(zip(plans[0].samples, *rows, strict=True))
    scored = [(sample, (a, b)) for sample, a, b in pairs if None not in (a["correct"], b["correct"])]
    flips = [Flip(sample, both) for sample, both in scored if both[0]["correct"] != both[1]["correct"]]
    if not flips:
        raise ValueError(
            f"{first.folder} and {second.folder} have the same {len(scored)} questions right: there is no flip to explain"
        )
    chosen = [flips[n * len(flips) // limit] for n in range(limit)] if len(flips) > limit else flips
    marks = np.array([[a["correct"], b["correct"]] for _, (a, b) in scored], dtype=bool)
    return Flips((first, second), plans, chosen, mcnemar(marks[:, 0], marks[:, 1]), len(scored))


def write_pages(flips: Flips, folder: Path) -> list[Path]:
    """Answer the chosen questions anew, both ways, and write a page for each and an index; return the files."""
    explainer = Explainer(load_checkpoint(flips.plans[0].backbone), flips.plans[0].template, _sides(flips))
    shutil.rmtree(folder / PAGES, ignore_errors=True)
    (folder / PAGES).mkdir(parents=True)
    width = max(4, len(str(len(flips.chosen))))
    names = [f"{number:0{width}}.html" for number in range(1, len(flips.chosen) + 1)]
    cards = []
    for number, flip in enumerate(track(flips.chosen, "explaining", transient=True)):
        explained = explainer(flip.sample)
        warnings = _differences(flip, explained)
        around = {
            "before": names[number - 1] if number else None,
            "after": names[number + 1] if number + 1 < len(names) else None,
            "index": f"../{INDEX}",
        }
        correct = [
            row["correct"] if row["response"] == answer.text else None
            for row, answer in zip(flip.rows, explained.answers, strict=True)
        ]
        text = page(explained, correct=correct, links=around, warnings=warnings)
        write_text(folder / PAGES / names[number], text)
        cards.append(_card(flip, explained, f"{PAGES}/{names[number]}"))
    write_text(folder / INDEX, _index(flips, cards))
    _write_table(folder / TABLE, flips, cards)
    return [folder / INDEX, folder / TABLE]


def _plan(run: Run) -> Plan:
    """What a finished run was asked to do, and still can be.

    Raises:
        ValueError: its config is missing, or what it was answered from has changed.
    """
    path = run.folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{run.folder} holds no {CONFIG_FILE}, by which its questions could be asked again")
    config: Any = OmegaConf.load(path)
    plan = make_plan(config, [])
    resume(run.folder, plan.samples, inputs=plan.inputs)
    return plan


def _sides(flips: Flips) -> tuple[Side, Side]:
    first, second = (
        Side(run.label, How(plan.policy, plan.token_sr), plan.benchmark.max_new_tokens)
        for run, plan in zip(flips.runs, flips.plans, strict=True)
    )
    return first, second


def _differences(flip: Flip, explained: Explanation) -> list[str]:
    """Say where an answer taken alone is not the run's: in low precision the company of other questions can matter."""
    return [
        f"{answer.side.name} answered “{row['response']}” in its run, and “{answer.text}” now that it is asked alone: "
        "what is shown led to the latter."
        for row, answer in zip(flip.rows, explained.answers, strict=True)
        if row["response"] != answer.text
    ]


def _card(flip: Flip, explained: Explanation, address: str) -> dict[str, Any]:
    """What the index says of a flip."""
    events = [event for answer in explained.answers for event in answer.events]
    expanded = next((event for event in reversed(events) if event.action == "expand"), None)
    patches = next(
        (p for p, answer in zip(explained.patches, explained.answers, strict=True) if answer.events), 2
    )
    return {
        "address": address,
        "id": flip.sample.id,
        "question": flip.sample.question,
        "label": flip.sample.label,
        "gained": flip.gained,
        "responses": [row["response"] for row in flip.rows],
        "actions": [
            [{"layer": event.layer, "action": event.action} for event in answer.events]
            for answer in explained.answers
        ],
        "kinds": sorted({event.action for event in events}) or ["none"],
        "picture": data_address(explained.picture, 2 * _THUMBNAIL),
        "region": None if expanded is None else [expanded.region, patches],
        "shape": f"{explained.picture.width} / {explained.picture.height}",
    }


def _index(flips: Flips, cards: Sequence[dict[str, Any]]) -> str:
    scores = flips.runs[0].scores
    shown = _without_common_end([card["question"] for card in cards])
    return render(
        "index.html",
        title=f"Flips: {flips.runs[0].label} to {flips.runs[1].label}",
        names=[run.label for run in flips.runs],
        about=f"{scores['benchmark']} ({scores['version']}), {scores['data']}, {scores['backbone']}",
        asked=flips.asked,
        gained=flips.test.only_second,
        lost=flips.test.only_first,
        p=flips.test.p,
        cards=[{**card, "shown": text} for card, text in zip(cards, shown, strict=True)],
        cut=flips.test.only_second + flips.test.only_first - len(cards),
    )


def _without_common_end(questions: Sequence[str]) -> list[str]:
    """Questions without the last line where all of several have the same one: the benchmark's instruction."""
    parts = [question.strip().rpartition("\n") for question in questions]
    if len(parts) > 1 and parts[0][0] and len({end for _, _, end in parts}) == 1:
        return [start for start, _, _ in parts]
    return [question.strip() for question in questions]


def _write_table(path: Path, flips: Flips, cards: Sequence[dict[str, Any]]) -> None:
    """The index as a table."""
    first, second = (run.label for run in flips.runs)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "id",
                "flip",
                "label",
                f"{first} says",
                f"{second} says",
                f"{first} did",
                f"{second} did",
                "page",
            ]
        )
        for card in cards:
            did = [" ".join(f"{one['layer']}:{one['action']}" for one in part) for part in card["actions"]]
            writer.writerow(
                [
                    card["id"],
                    "gained" if card["gained"] else "lost",
                    card["label"],
                    *card["responses"],
                    *did,
                    card["address"],
                ]
            )
