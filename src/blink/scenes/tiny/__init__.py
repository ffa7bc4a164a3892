"""The tiny backbone: a small LLaVA, and how it was trained on scenes.

Read from top to bottom: a file imports only from files above it.

    model.py             the backbone, untrained: configuration, tokenizer, processor
    packed_attention.py  attention for many questions behind one picture
    lessons.py           training batches, each a function of (stage, step)
    stages.py            what it is taught, in which order and how fast
    muon.py              the optimizer of its matrices
    train.py             python -m blink.scenes.tiny.train
    accuracy.py          python -m blink.scenes.tiny.accuracy
"""
