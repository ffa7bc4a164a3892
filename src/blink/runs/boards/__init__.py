"""What of a run is shown in dashboards, whatever dashboard it is.

Read from top to bottom: a file imports only from files above it.

    trackio_run.py  Trackio behind the interface of Lightning's loggers
    board.py        numbers, pictures and tables for whatever logger there is
    marks.py        ids in dashboards, and what was logged already
"""
