"""What commands are given beside texts: names and folders, pictures, preset files. Knows no benchmark and no model.

Read from top to bottom: a file imports only from files above it.

    names.py        which files lie below a folder; names in files, and where they may lead
    pictures.py     decoding: the one place where a picture's bytes become RGB
    hub.py          tables of the `datasets` library, and their pictures
    preset_file.py  preset=FILE: settings that `blink.tune` chose for a backbone
"""
