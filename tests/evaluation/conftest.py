"""`plan.py` is covered by the tests of the commands that plan with it: test_eval.py and sweeps/test_multirun.py."""
