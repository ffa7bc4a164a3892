"""A sweep of thresholds from Python: all policies of the grid in one pass over the pictures.

    python examples/sweep.py

The commands do the same with checks, intervals, files and plots:

    python -m blink.eval bench=pope layer=8-10 tau_exp=0.4,0.6,0.8 tau_drop=0.2,0.4 --multirun
"""

from itertools import groupby, product

import blink
from blink.model.prompts import template_of
from blink.scenes.questions import question_rows


def main(images: int = 2) -> None:
    """Ask about some scenes under a grid of thresholds, and print what each costs and gains."""
    model, processor = blink.load("tiny")
    engine, template = blink.Engine(model, processor), template_of(processor)
    grid = list(product((0.4, 0.8), (0.2, 0.4)))
    runs = [blink.Run(), *(blink.Run(blink.Policy(range(8, 11), exp, drop), "tiny") for exp, drop in grid)]
    right, expanded, asked = [0] * len(runs), [0] * len(runs), 0
    rows = question_rows("validation", images, difficulty="hard")
    for _, group in groupby(rows, key=lambda row: row["image_source"]):
        about = list(group)
        prompts = [template.prompt(row["question"]) for row in about]
        asked += len(about)
        for number, answers in enumerate(engine.answer(about[0]["image"], prompts, runs, max_new_tokens=8)):
            for row, answer in zip(about, answers, strict=True):
                right[number] += answer.text.strip().lower() == row["answer"].lower()
                expanded[number] += any(event.action == "expand" for event in answer.events)
    print(f"{asked} questions\ntau_exp  tau_drop  right  expanded")
    for name, hits, share in zip(
        ["   none      none", *(f"{e:7} {d:9}" for e, d in grid)], right, expanded, strict=True
    ):
        print(f"{name} {hits:6} {share:9}")


if __name__ == "__main__":
    main()
