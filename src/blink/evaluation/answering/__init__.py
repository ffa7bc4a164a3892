"""Questions into rows: one answerer, as many runs and processes as asked for, and what each answer costs.

Read from top to bottom: a file imports only from files above it.

    timing.py      the time that answering takes, written as answers come
    rows.py        predictions.jsonl of a run folder, read, checked and cut back to whole pictures
    predict.py     samples -> predictions.jsonl, added to picture by picture
    cost.py        FLOPs and bytes of every part of the work, computed from a config
    meter.py       FLOPs of a question that was answered
    parts.py       a picture as it is asked about, and parts of it that are answered in one pass
    not_finite.py  where a model first makes nan or infinity of a prompt
    zoom.py        answers in two passes: one to look, and one with the region's crop behind the picture
    answerers.py   samples about a picture through the engine, or one by one through generate
    shares.py      whole pictures shared out among several processes
"""
