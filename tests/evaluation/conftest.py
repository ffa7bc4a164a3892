"""Tests of evaluation; those of whole runs are in tests/test_eval.py.

Files of the room that are tested where they are used:

    plan.py     test_eval.py, sweeps/test_multirun.py
    shares.py   test_eval_processes.py
"""
