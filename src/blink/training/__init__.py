"""One TokenSR per layer, trained on a frozen backbone (Sec. 3.2.1).

Read from top to bottom: a file imports only from files above it.

    checks.py           groups of keys that belong together, checked: Lightning's, callbacks, the source of images
    plan.py             what one run is to do: its config, checked, as flat values
    images.py           where images come from
    manifest.py         which of them are readable, and how they are split
    features/           hidden states of full views and quadrants, computed by the backbone or read from disk
    answers/            questions about the images, and the loss of right answers above a TokenSR
    order.py            in which order and shares images are trained on
    data.py             the LightningDataModule: pairs of a full view and a quadrant, in a resumable order
    checkpoints.py      when a run's state is saved, and which one it continues from
    objective.py        the KL loss, and the distances that are logged beside it
    not_finite.py       ends a run whose numbers are nan or infinite: which, in which layer, of which images
    module.py           the LightningModule: one TokenSR per layer
    report.py           what a run achieved, as table and JSON
    parts/              trainer, images, features and module of a run, made from its plan
    dashboard.py        the callback that logs speed, gradient norms and pictures of features
"""
