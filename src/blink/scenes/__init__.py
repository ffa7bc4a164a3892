"""The embedded world: generated pictures of coloured shapes with questions about them; `tiny/` is the backbone trained on it.

Read from top to bottom: a file imports only from files above it.

    draw.py       a scene from a seed, as data and as a picture; the splits
    view.py       which objects a picture, or a zoomed quadrant of it, surely shows
    ask.py        questions about a view whose answers are certain
    formats.py    a question and its answer in the words of each benchmark
    mmbench.py    questions as rows with MMBench's columns, for `bench/`
    gqa.py        the same for GQA
    mme.py        the same for MME; which question kind stands for which subtask
    pope.py       the same for POPE
    questions.py  one question of each kind a scene, as rows of a user's own questions
    scienceqa.py  the same for ScienceQA
    mmvet.py      the same for MM-Vet
    tiny/         the tiny LLaVA that ships with the project, and its training
"""
