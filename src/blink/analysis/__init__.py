"""Analysis of single prompts and finished runs: the paper's figures (`figures/`) and explanations of answers (`explain/`).

Read from top to bottom: a file imports only from files above it.

    kept.py    intermediate results on disk, so that an interrupted command goes on
    probe.py   attention of batches of prompts on their pictures, at some layers
    record.py  one prompt at every layer: attention per span, saliency, logit lens
    cases.py   questions from a file or a command, with boxes of what they are about
    figures/   the paper's figures
    explain/   one answer, layer by layer, as a page
"""
