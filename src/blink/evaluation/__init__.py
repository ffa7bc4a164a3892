"""Answers, scores, comparisons: an evaluation is planned, answered and scored; `sweeps/` and `tuning/` have many of them.

Read from top to bottom: a file imports only from files above it.

    result.py     what scores.json holds
    planning/     what is to be done: settings, presets, policy, questions, all checked before any weight is read
    answering/    samples -> predictions.jsonl
    scores.py     rows of predictions -> scores, from an evaluation or from any file
    evaluate.py   one evaluation from its first answer to scores.json
    compare.py    finished runs, side by side and in pairs
    rerun.py      a finished run repeated, and whether its scores come out again
    example.py    a picture of one answer, from its events
    dashboard.py  what an evaluation writes to W&B, TensorBoard or CSV files
    sweeps/       multiruns in one pass, and the paper's tables
    tuning/       layers and thresholds for a backbone that nobody has a preset for
"""
