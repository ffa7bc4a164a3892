"""The paper's figures: each file measures, tabulates and draws one; `plan.py` alone reads a config.

Read from top to bottom: a file imports only from files above it.

    base.py                     what figures that look into a backbone have in common
    maps.py                     attention on pictures
    attention_maps.py           attention of the last prompt token (Fig. 2)
    attention_ratio.py          how concentrated it is, and how often on the right region (Fig. 3)
    redistribution.py           attention once a region was expanded: measured
    redistribution_drawings.py  these measurements, drawn (Fig. 6, 8)
    tokensr.py                  TokenSR and interpolation against the zoomed quadrant
    of_runs/                    figures of finished runs (Fig. 4, 7)
    plan.py                     all of them by name, and the settings of one, checked
"""
