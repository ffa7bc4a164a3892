"""Work that further processes do for a command.

Read from top to bottom: a file imports only from files above it.

    ahead.py  items made ready by worker processes ahead of who consumes them
    team.py   several processes of one command, of which the first asks the others for a part of its work
"""
