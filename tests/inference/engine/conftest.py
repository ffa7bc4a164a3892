"""Tests of many questions and policies about one picture.

Files of the room that are tested where they are used:

    asks.py        test_engine.py, test_many.py
    trunk.py       test_engine.py
    branching.py   test_engine.py
    decoding.py    test_engine.py, inference/test_numbers.py
"""
