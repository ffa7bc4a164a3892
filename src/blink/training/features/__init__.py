"""Hidden states of the views of images: what TokenSR learns from, computed once and kept on disk (Sec. 3.2.1).

Read from top to bottom: a file imports only from files above it.

    states.py     of full views and quadrants: coarse, interpolated, refined, and the teacher's
    picture.py    the tokens of one quadrant as colours
    store.py      features on disk
    per_image.py  datasets over a collection of images: the views of each, or its features from disk
    fill.py       which features a run lacks on disk, and the callback that computes them
"""
