"""The embedded world: pictures of coloured shapes and questions about them, drawn from a seed; `tiny/` is the backbone trained on it.

Read from top to bottom: a file imports only from files above it.

    draw.py       pictures of shapes from a seed
    view.py       what a picture, or a zoomed quadrant, shows
    ask.py        questions whose answers are certain
    formats.py    the same facts in the words of each benchmark
    pictures.py   scenes as plain pictures
    draws.py      questions of one kind, drawn until one fits
    mmbench.py    MMBench in its official columns
    gqa.py        GQA in its official columns
    mme.py        MME: which subtask asks what
    pope.py       POPE in its official columns
    scienceqa.py  ScienceQA in its official columns
    mmvet.py      MM-Vet
    tiny/         a room of its own
"""
