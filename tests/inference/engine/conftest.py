"""Tests of many questions and policies about one picture, and about many.

Files of the room that are tested where they are used:

    asks.py        test_asks.py, test_many.py
    rows.py        test_engine.py, test_many.py
    branching.py   test_engine.py
    decoding.py    test_decoding.py, inference/test_numbers.py
    slots.py       test_pool.py, test_many.py
    wave.py        test_many.py
    schedule.py    test_schedule.py, test_many.py
"""
