"""The paper's figures: each file measures, tabulates and draws one; none of them reads a config.

Read from top to bottom: a file imports only from files above it.

    maps.py                  attention on pictures
    attention_maps.py        where it looks (Fig. 2)
    attention_ratio.py       how sharply, and how often rightly (Fig. 3)
    redistribution.py        what an extension does to it (Fig. 6, 8)
    redistribution_cases.py  the same for single questions (Fig. 6, 8)
    tokensr.py               TokenSR and interpolation against the zoomed quadrant
    recipes.py               figures that look into a backbone: settings, and how they come about
    points.py                finished runs as points
    copy_radar.py            scores per subtask (Fig. 4)
    layer_range.py           scores against layers (Fig. 7)
    thresholds.py            scores over both thresholds
    run_recipes.py           figures of finished runs
"""
