"""A page on which to try Blink in a browser: `python -m blink.demo`.

Read from top to bottom: a file imports only from files above it.

    plan.py       what is shown: the config, checked, before any weight is read
    scenes.py     a scene drawn on request, and questions about it
    asking.py     what a visitor asks and sets, checked
    answering.py  one question answered in every way, piece by piece, and the scan behind it
    cards.py      answers, errors and the scan as HTML
    page.py       the page: its parts, and what happens when one of them is used
    app.py        the page as an application that fetches nothing from elsewhere

Gradio is an extra: `pip install "blink-mllm[demo]"`. The model answers in the server's thread (`integrations/server`), and
the scan is drawn by the explanations' page (`analysis/explain`).
"""
