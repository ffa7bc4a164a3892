"""Tests of commands' configs.

Files of the room that are tested where they are used:

    groups.py  test_overrides.py, test_startup.py
"""
