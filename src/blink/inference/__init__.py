"""The method: Algorithm 1 behind `generate()`, and for many questions about one picture at once.

Read from top to bottom: a file imports only from files above it.

    policy.py        Policy, Event: what may happen at a scanned layer, and what happened (no torch)
    boxes.py         the region that holds most of a box, for policies that are told where to look
    run.py           Run: a policy and the modules that it expands with, checked against a backbone
    saliency.py      query, keys -> saliency, region sums, ratio, event (Eq. 1-3)
    spans.py         columns and positions of system, visual, extension and text tokens in a batch (Eq. 5-6)
    cache.py         the KV cache of layers that differ in length
    attention.py     attention functions that let a stock layer scan itself
    streams.py       rows of a batch whose sequences are of one kind, and runs of one layer on them
    crops.py         regions of the original pictures, encoded anew; what an extension is made of
    scan.py          saliency of the rows that run through a scanned layer, and the decisions on it
    algorithm.py     scan, decide, expand or drop, layer by layer (Algorithm 1)
    calls/           what a call of the stock model brings: spans in its token ids, refusals, what a caller says of the rows
    attach.py        the same behind a stock model's generate(): attach, trace, detach
    engine/          many questions and many policies about one picture, each piece of work once
"""
