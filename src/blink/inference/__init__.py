"""The method: Algorithm 1 behind `generate()`, and for many questions about one picture at once.

Read from top to bottom: a file imports only from files above it.

    policy.py     Policy, Event: what may happen, and what happened (no torch)
    saliency.py   query, keys -> saliency, region sums, ratio (Eq. 1-3)
    spans.py      system, visual, extension and text in a batch (Eq. 5-6)
    cache.py      the key-value cache of layers that differ in length
    algorithm.py  scan, decide, expand or drop, layer by layer (Algorithm 1)
    refusals.py   what is refused, and why
    attach.py     the same behind a stock model's generate(): attach, trace, detach
    trunk.py      what all questions about a picture share: the trunk, and extensions behind it
    mixing.py     attention over keys that rows share and keys of their own
    rows.py       text behind a trunk, each piece of work once
    branching.py  before a scanned layer: scan, decide, split rows that disagree
    decoding.py   greedy answers of such rows
    engine.py     many questions, many policies, one picture
"""
