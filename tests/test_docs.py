"""The documentation site: every page is in it, and every public name."""

import re
from pathlib import Path

import blink

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_every_page_is_in_the_index() -> None:
    """Would catch a page that no reader finds. `make docs` holds that the site builds without a warning."""
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^([a-z_]+)$", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")


def test_every_public_name_is_in_the_reference() -> None:
    """Would catch a name that users may import and cannot look up."""
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto\w+:: blink\.(\w+)$", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(blink.__all__)


def test_every_figure_has_a_small_picture() -> None:
    """Would catch a figure that the page of figures names and nobody can see, and a picture too large to load."""
    root = Path(__file__).parents[1]
    pictures = root / "docs" / "pictures"
    text = (root / "docs" / "figures.md").read_text(encoding="utf-8")
    figures = {path.stem for path in (root / "conf" / "figure").glob("*.yaml")}
    for name in figures | {"sweep", "table"}:
        assert f"(pictures/{name}.png)" in text
        assert 10_000 < (pictures / f"{name}.png").stat().st_size < 150_000
