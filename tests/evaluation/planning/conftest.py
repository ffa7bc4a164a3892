"""Tests of what a run is to do.

Files of the room that are tested where they are used:

    checkpoint.py   test_eval.py, integrations/harness/test_model.py, analysis/explain/test_command.py
    plan.py         test_eval.py, evaluation/sweeps/test_multirun.py
    asking.py       analysis/explain/test_command.py, integrations/harness/test_arguments.py, test_serve.py
"""
