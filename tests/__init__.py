"""Tests mirror the rooms of src/blink: tests/<room>/test_<file>.py for src/blink/<room>/<file>.py.

What a room tests in another file says the docstring of its conftest. What several rooms share:

    processes.py       commands in processes of their own
    models/            random models, their processors, pictures and prompts; the benchmarks use them, too
    finished_runs.py   evaluation runs written by hand
    told_runs.py       what W&B is told of a run
    flops.py           FLOPs as torch counts them
    inference/oracle/  Algorithm 1 written out literally, and comparisons with it
"""
