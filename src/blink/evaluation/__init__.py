"""Answers, scores, comparisons; `sweeps/` has multiruns and the paper's tables, `tuning/` searches for settings.

Read from top to bottom: a file imports only from files above it.

    presets.py    layers and thresholds per backbone and benchmark (App. B, C)
    questions.py  a benchmark's questions and pictures, read
    rows.py       predictions.jsonl of a run folder, read, checked and cut back to whole pictures
    scores.py     rows of predictions -> scores, from an evaluation or from any file
    checks.py     checks of settings that several commands share
    answering/    what answerers are made of: two passes, and where numbers stop being finite
    plan.py       what an evaluation is to do: its config, checked, as flat values
    cost.py       FLOPs and bytes computed from a config; FLOPs of an answered question
    predict.py    samples -> predictions.jsonl, added to picture by picture -> scores.json
    answerers.py  samples about a picture through the engine, or one by one through generate
    shares.py     whole pictures shared out among several processes
    compare.py    finished runs, side by side and in pairs
    rerun.py      a finished run repeated, and whether its scores come out again
    example.py    a picture of one answer, from its events
    dashboard.py  what an evaluation writes to W&B, TensorBoard or CSV files
    sweeps/       multiruns in one pass, and the paper's tables
    tuning/       layers and thresholds for a backbone that nobody has a preset for
"""
