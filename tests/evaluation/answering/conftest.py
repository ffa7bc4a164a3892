"""Tests of how questions become rows; those of whole runs are in tests/test_eval.py.

Files of the room that are tested where they are used:

    timing.py       test_rows.py, test_predict.py
    parts.py        test_answerers.py, test_predict.py
    not_finite.py   test_answerers.py
    shares.py       test_eval_processes.py
"""
