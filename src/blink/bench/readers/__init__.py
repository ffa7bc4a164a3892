"""Rows of benchmarks from files and from the hub.

Read from top to bottom: a file imports only from files above it.

    rows.py         rows of a source, and checks of the columns that are required
    sources.py      rows from tables: of the hub, or of its parquet files
    tables.py       cells and tables as files: tab-separated text with base64 pictures, Excel
    mme_release.py  MME's folders as its authors release them
"""
