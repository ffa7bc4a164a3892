"""Figures of finished runs: no model is needed.

Read from top to bottom: a file imports only from files above it.

    points.py       reads finished runs for the figures below
    copy_radar.py   scores per subtask (Fig. 4)
    layer_range.py  scores against layers (Fig. 7)
    thresholds.py   scores over both thresholds
    ceilings.py     where the gain is lost: scan, TokenSR, positions
"""
