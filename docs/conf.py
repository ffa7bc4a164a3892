"""Sphinx: the pages of this folder and the reference from docstrings. `make docs` builds them into outputs/docs."""

from importlib import metadata

project = "Blink"
author = "the authors of Blink's implementation"
release = metadata.version("blink-mllm")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
html_theme = "furo"
html_title = "Blink"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository, which tests/test_readme.py holds
