"""Layers and thresholds for a backbone that nobody has a preset for: `python -m blink.tune`.

Read from top to bottom: a file imports only from files above it.

    space.py    settings that may be tried, and one of them from the numbers that a search suggests
    plan.py     what a search is to do: its config, checked; the questions of a validation split, halved; never test
    passes.py   settings that are answered together, and by several processes
    measure.py  settings answered in one pass, and by how much each beats the backbone as it is
    look.py     every layer's ratios, and how often its hottest region is the right one
    search.py   settings suggested batch by batch, the same ones again when it goes on
    rule.py     which setting to take: the cheapest within one standard error of the best
    report.py   the page, the plots and the tables of a search, and the preset file
"""
