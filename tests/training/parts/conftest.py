"""Parts of training runs are tested in whole runs.

Files of the room that are tested where they are used:

    modules.py   test_train.py, test_train_refusals.py
    images.py    test_train.py, test_train_refusals.py
    trainer.py   test_train.py, test_train_refusals.py
"""
