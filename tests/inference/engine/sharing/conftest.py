"""Tests of what rows share.

Files of the room that are tested where they are used:

    trunk.py       test_groups.py, inference/engine/test_many.py
    extensions.py  test_groups.py, inference/engine/test_many.py
"""
