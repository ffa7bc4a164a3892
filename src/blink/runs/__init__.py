"""What a command leaves behind and how it speaks: folders, files, dashboards, plots. Knows no model.

Read from top to bottom: a file imports only from files above it.

    values.py     checks of single values, with one wording
    machine.py    what this machine computes fast
    folder.py     one folder per run, named after its overrides
    command.py    Hydra commands that know a misspelt key
    processes.py  DDP inside a multirun
    marks.py      what a folder knows of its dashboards
    board.py      one run's place in a dashboard, whatever shows it
    loggers.py    Weights & Biases, TensorBoard, CSV
    style.py      one look for all plots, and their files
"""
