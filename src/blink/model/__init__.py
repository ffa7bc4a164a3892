"""One stock vision-language model taken apart, and the modules trained for it.

Read from top to bottom: a file imports only from files above it.

    fingerprint.py   hashes that tell one checkpoint from another
    text_model.py    what a text model must be, and what is refused
    families/        how each class of models places a picture in a prompt
    dimensions.py    the sizes of a model from which costs are computed
    backbone.py      wraps a model: its sizes, one decoder layer at a time
    shadow.py        methods of one model object, replaced and put back
    image_inputs.py  pictures and prompts -> inputs, embeddings, visual tokens; checks that they fit
    visual_states.py  hidden states of a picture's base view, layer by layer
    processors.py    load a checkpoint's processor, also without torchvision
    checkpoints.py   load a backbone, whole or its lower layers, or its outline without weights
    load.py          `blink.load`: a model and its processor by folder, hub id, or name of `model=`
    prompts.py       conversation templates: two written out, and that of a processor
    token_sr/        TokenSR and its designs, regions and their resizing (Eq. 4, App. A); the files of trained modules
    views.py         image -> full view and quadrants, as the backbone sees them
"""
