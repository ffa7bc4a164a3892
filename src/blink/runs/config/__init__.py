"""Configs of commands: where they lie, and what of overrides and composed configs is checked for all commands alike.

Read from top to bottom: a file imports only from files above it.

    groups.py     where the configs lie, their groups and options, and what they interpolate
    overrides.py  overrides, checked before Hydra reads them: misspelt keys and options
    settings.py   the composed config and parts of it, checked before any value is used; the configs of a multirun's jobs
"""
