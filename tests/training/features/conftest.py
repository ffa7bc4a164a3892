"""Tests of features of images.

Files of the room that are tested where they are used:

    per_image.py  training/test_data.py, test_fill.py
"""
