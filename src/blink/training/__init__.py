"""One TokenSR per layer, trained on a frozen backbone (Sec. 3.2.1).

Read from top to bottom: a file imports only from files above it.

    images.py         where images come from
    manifest.py       which of them are readable, and how they are split
    features.py       hidden states of views and of quadrants, coarse, interpolated, refined and the teacher's
    feature_picture.py  these of one quadrant as colours
    feature_store.py  hidden states of views on disk
    data.py           the LightningDataModule
    feature_fill.py   which features a run lacks, and the pass that computes them
    objective.py      KL between token features, and what is logged beside it
    module.py         the LightningModule: one TokenSR per layer
    report.py         what a training run achieved
    settings.py       what a training command asks for, checked before weights are read
    parts.py          the parts of a training run, from its settings
    dashboard.py      what a training run tells its board
"""
