"""The tiny backbone: a LLaVA of 4 M parameters in stock classes, and how it was trained on scenes.

Read from top to bottom: a file imports only from files above it.

    model.py             configuration, tokenizer, processor, initial weights
    packed_attention.py  attention over many questions packed behind one picture
    lessons.py           training batches, each a function of (stage, step)
    stages.py            the training schedule as a table: what is trained, on what, for how long, how fast
    losses.py            forward passes in training and the loss of a batch
    muon.py              Muon, the optimizer of the decoder's matrices
    train.py             python -m blink.scenes.tiny.train
    accuracy.py          python -m blink.scenes.tiny.accuracy
"""
