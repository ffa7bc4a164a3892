"""What every command has in common: run folders, files, checks of values, Hydra, logging, the look of plots. Knows no model.

Read from top to bottom: a file imports only from files above it.

    values.py      checks of single values that a user gave, with one wording
    machine.py     fast dtypes, memory, which of several processes this is, and whether another one is gone
    progress.py    how far long work has come: a bar on a terminal, a line a minute elsewhere
    signals.py     Ctrl-C and SIGTERM: a safe point, one line, exit code 130 or 143
    files.py       files of text, JSON and CSV: read with one set of messages, never half written
    lock.py        one process at a time in a run folder
    provenance.py  where a result comes from: command, versions, commit, fingerprints
    names.py       names of run folders, made of overrides
    folder.py      one folder per run, named after its overrides
    config/        the commands' configs, and what of overrides and composed configs is checked
    parallel/      work that further processes do for a command
    command.py     Hydra commands, and mistakes in one line
    boards/        what of a run is shown in dashboards, whatever dashboard it is
    loggers.py     Weights & Biases, Trackio, TensorBoard, CSV
    style.py       one look for all plots, and their files
    inputs/        what commands are given beside texts: names and folders, pictures, tables of the hub
"""
