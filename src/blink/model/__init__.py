"""One stock vision-language model taken apart, and the modules trained for it.

Read from top to bottom: a file imports only from files above it.

    fingerprint.py   hashes that tell one checkpoint from another
    backbone.py      a LLaVA or LLaVA-NeXT: its facts, one decoder layer at a time
    image_inputs.py  pictures on their way into it
    checkpoints.py   load a backbone and its processor, whole or its lower layers, or its outline without weights
    prompts.py       conversation templates
    views.py         image -> full view and quadrants, as the backbone sees them
    token_sr.py      TokenSR, regions and their resizing (Eq. 4, App. A)
    token_sr_files.py  the folder that TokenSR modules are saved in
    dimensions.py    the numbers of a config that costs follow from
"""
