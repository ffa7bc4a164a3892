"""Tests of evaluation; those of whole runs are in tests/test_eval.py.

Files of the room that are tested where they are used:

    result.py   test_scores.py, test_evaluate.py, answering/test_rows.py
"""
