"""What a call of the stock model's forward or generate brings, read and checked.

Read from top to bottom: a file imports only from files above it.

    prompt_spans.py  finds the spans of prompts in their token ids
    refusals.py      what of forward and generate is refused, and why
    given.py         what a caller says of a prompt's rows beside their tokens
    prompt.py        all of it: the prompts of one call
"""
