"""Keys that rows share, those of trunks and of extensions, each computed once, and attention to them where they lie.

Read from top to bottom: a file imports only from files above it.

    partial.py    attention to some of the keys, and the softmax over all of them merged of such parts
    trunk.py      KV caches that all questions about a picture share
    groups.py     rows of many pictures, each in the group of what it attends to, in one call
    extensions.py KV caches of extensions, which questions share that expand the same region
"""
