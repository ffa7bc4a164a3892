"""What a run is to do: its config, checked before any weight is read; shared by all commands that answer questions.

Read from top to bottom: a file imports only from files above it.

    presets.py     layers and thresholds per backbone and benchmark (App. B, C)
    settings.py    keys and values, each by itself
    method.py      policy and modules of a config, and whether they fit the backbone
    questions.py   a benchmark's questions and pictures, read
    checkpoint.py  which backbone, and how: its config, processor and template, and with weights
    fit.py         whether a backbone takes the questions: texts, boxes, pictures, length of answers
    plan.py        what an evaluation is to do
    asking.py      a backbone that is asked questions of no benchmark, and the policy
"""
