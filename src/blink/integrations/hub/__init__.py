"""TokenSR modules on the Hugging Face hub. Reading them from there is `model/token_sr/source.py`.

Read from top to bottom: a file imports only from files above it.

    facts.py      what is told of modules: their config, their training run's summary, and no folder of this machine
    card.py       the model card: metadata, text and the plot of KL per layer
    release.py    the folder that is uploaded
    upload.py     `push_token_sr`: repository, checks, commit
"""
