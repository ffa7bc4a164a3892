"""What Blink costs, measured by hand from the repository's root: `python -m benchmarks`, or one part of it alone.

In reading order; every part from never.py to rehearsal.py is a command, such as `python -m benchmarks.never --help`:

    shared_cost.py  FLOPs and bytes of many questions and policies about one picture, each piece of work once
    common.py       backbones, pictures, two sides timed in turn, rows of the table
    report.py       rows on the screen and as Markdown; the command line of a part
    never.py        a prompt pass that scans and never expands, over the stock model's
    scans.py        the same from scans timed inside a pass, which a busy machine disturbs less
    extensions.py   a prompt pass with an extension: its time over its FLOPs
    questions.py    18 questions about a picture at once, over a stock loop
    sweep.py        a grid of thresholds in one pass, over one point
    training.py     seven layers in one pass over one; features from disk; memory
    noise.py        which answers and events rounding alone changes
    on_paper.py     the full-size models' costs, computed
    rehearsal.py    one prompt at true width: seconds and memory here, and of the full model by estimate
    records.py      finished parts on disk, so that a killed run goes on
    gpu/            LLaVA-1.5-7B at full size on a GPU: `python -m benchmarks.gpu`
    __main__.py     all parts, into docs/performance.md
"""
