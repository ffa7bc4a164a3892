"""Rows of answers: made, or taken from anybody's file; scored; and written for VLMEvalKit.

Read from top to bottom: a file imports only from files above it.

    scoring.py     rows from answers, scores from rows
    given_rows.py  rows from a file of anybody's, completed and marked
    vlmevalkit.py  predictions as VLMEvalKit keeps them
"""
