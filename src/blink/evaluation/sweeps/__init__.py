"""Multiruns in one pass, and the paper's tables.

Read from top to bottom: a file imports only from files above it.

    paper.py              the paper's tables as data
    drawing.py            scores with intervals, and paired differences, as plots show them
    report.py             the table, plot and CSV of a multirun
    experiments.py        the paper's experiments as lists of evaluations
    text_tables.py        tables of text
    paper_tables.py       the paper's table layouts, filled
    experiment_report.py  the end of an experiment: table.md, table.csv, table.png
    dashboard.py          what a multirun logs as a run of its own
    multirun.py           the jobs of a multirun, checked before the first and reported after the last
    one_pass.py           the jobs of a multirun in one pass over the pictures
    remote.py             such passes by jobs elsewhere, each for a share of the pictures
"""
