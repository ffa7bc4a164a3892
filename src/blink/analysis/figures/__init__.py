"""The paper's figures: each file measures, tabulates and draws one; `plan.py` alone reads a config.

Read from top to bottom: a file imports only from files above it.

    base.py                    what figures that look into a backbone have in common
    maps.py                    attention on pictures
    attention_maps.py          attention of the last prompt token (Fig. 2)
    attention_ratio.py         how concentrated it is, and how often on the right region (Fig. 3)
    redistribution.py          attention once a region was expanded: measured
    redistribution_drawings.py  these measurements, drawn (Fig. 6, 8)
    tokensr.py                 TokenSR and interpolation against the zoomed quadrant
    points.py                  reads finished runs for the figures below
    copy_radar.py              scores per subtask (Fig. 4)
    layer_range.py             scores against layers (Fig. 7)
    thresholds.py              scores over both thresholds
    ceilings.py                where the gain is lost: scan, TokenSR, positions
    plan.py                    all of them by name, and the settings of one, checked
"""
