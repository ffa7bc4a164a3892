"""Tests of the tiny backbone's training and of the weights that ship.

Files of the room that are tested where they are used:

    stages.py     test_train.py
    losses.py     test_train.py
    accuracy.py   test_shipped.py
"""
