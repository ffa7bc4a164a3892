"""What answerers are made of.

Read from top to bottom: a file imports only from files above it.

    not_finite.py  where a model first makes nan or infinity of a prompt
    zoom.py        answers in two passes: one to look, and one with the region's crop behind the picture
"""
