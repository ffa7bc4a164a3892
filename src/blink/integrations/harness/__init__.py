"""A model of lmms-eval that answers with Blink: `lmms-eval --model blink_mllm`.

Read from top to bottom: a file imports only from files above it.

    manifest.py   what lmms-eval reads of installed packages at its start
    arguments.py  what `--model_args` says, checked before any weight is read
    requests.py   lmms-eval's requests as prompts, pictures and settings of a generation
    answering.py  questions about one picture answered together; the rest one by one
    model.py      the class that lmms-eval makes

lmms-eval is an extra, docs/lmms_eval.md says how to install it.
"""
