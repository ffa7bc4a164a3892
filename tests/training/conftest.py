"""Tests of training; those of whole runs are in tests/test_train.py.

Files of the room that are tested where they are used:

    settings.py   test_train.py
    parts.py      test_train.py
"""
