"""Answers, scores, comparisons; `sweeps/` has multiruns and the paper's tables.

Read from top to bottom: a file imports only from files above it.

    presets.py      layers and thresholds per backbone and benchmark (App. B, C)
    cost.py         FLOPs and bytes of every part of the work, on paper
    meter.py        FLOPs of a question answered alone, from its prompt and events
    predictions.py  rows of a file from anywhere, completed and marked
    results.py      what a result says: scores, edition, what expanded
    predict.py      samples -> predictions.jsonl (resumable) -> scores.json
    answerers.py    samples about a picture through the engine, or one by one through generate
    questions.py    all that can be checked and read before weights are
    plan.py         what an evaluation is to do, checked, as flat values
    compare.py      finished runs in pairs
    example.py      a picture of one answer, from its events
    dashboard.py    what an evaluation tells its board
    sweeps/         a room of its own
"""
