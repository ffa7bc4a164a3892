"""Tests of TokenSR's designs.

Files of the room that are tested where they are used:

    regions.py      test_expansion.py
    base.py         test_kinds.py
    conv.py         test_expansion.py
    residual.py     test_kinds.py
    mlp.py          test_kinds.py
    attention.py    test_kinds.py
    conditioned.py  test_kinds.py
"""
