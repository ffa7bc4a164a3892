"""The method: Algorithm 1 behind `generate()`, and for many questions about one picture at once.

Read from top to bottom: a file imports only from files above it.

    policy.py     Policy, Event: what may happen at a scanned layer, and what happened (no torch)
    saliency.py   query, keys -> saliency, region sums, ratio, event (Eq. 1-3)
    spans.py      columns of system, visual, extension and text tokens in a batch (Eq. 5-6)
    cache.py      the KV cache of layers that differ in length
    attention.py  attention functions that let a stock layer scan itself
    streams.py    rows of a batch whose sequences are of one kind, and runs of one layer on them
    algorithm.py  Run; scan, decide, expand or drop, layer by layer (Algorithm 1)
    refusals.py   what of forward and generate is refused, and why
    attach.py     the same behind a stock model's generate(): attach, trace, detach
    trunk.py      KV caches that all questions about a picture share: of the trunk, and of extensions
    rows.py       text behind a trunk, each piece of work once
    branching.py  before a scanned layer: saliency, decisions, splitting of rows whose runs disagree
    decoding.py   greedy decoding of such rows
    engine.py     Engine, Answer: many questions, many policies, one picture
"""
