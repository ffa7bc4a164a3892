"""Blink at LLaVA-1.5-7B's full size on one GPU: `python -m benchmarks.gpu`, under five minutes, without a network.

Weights are random, in bfloat16, made on the device. Without a GPU, or with `--small`, every part runs on the CPU on a small
model, to see that it works; its numbers then mean nothing. In reading order:

    size.py      the full size and the small one, and the backbone of each
    equal.py     logits: never-firing against stock, firing against a literal Algorithm 1
    prompts.py   a prompt pass and decoding: time, memory, how often the host waits for the GPU
    engine.py    questions per second against stock `generate` in batches; going on after memory ran out
    training.py  a step of one layer and of seven; a step by DeepSpeed
    page.py      the section of docs/performance.md
    __main__.py  all parts, each within its time
"""
