"""Tests of what answerers are made of.

Files of the room that are tested where they are used:

    not_finite.py   evaluation/test_answerers.py
"""
