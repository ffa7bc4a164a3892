"""Other people's places in which Blink works: each a sub-room, none of which knows another.

hub/          TokenSR modules on the Hugging Face hub: the model card, and the upload
"""
