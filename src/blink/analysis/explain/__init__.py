"""Explanations of answers: attention, events and cost at every layer, with and without Blink, as a table and a page.

Read from top to bottom: a file imports only from files above it.

    answers.py  one question answered in several ways, with every layer's attention, events and cost
    page.py     an explanation as an HTML page that needs no network; its parts lie in templates/
    flips.py    the questions in which two finished runs differ
    plan.py     what is to be explained, checked
    screen.py   an answer's events on the terminal
"""
