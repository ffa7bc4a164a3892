"""Tests of what a call brings.

Files of the room that are tested where they are used:

    prompt.py      test_given.py, test_refusals.py
"""
