"""Looking inside: `figures/` draws the paper's figures, `explain/` takes one answer apart.

Read from top to bottom: a file imports only from files above it.

    probe.py  runs a prompt and reads every layer: attention, saliency, what the head makes of it
    cases.py  pictures, questions and boxes to look at
    figures/  a room of its own
    explain/  a room of its own
"""
