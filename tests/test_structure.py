"""Imports run one way, in the reading order that the README gives."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "blink"


def reading_order() -> list[str]:
    """Files of src/blink in the order of the README's tree."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^  ([\w/]+\.py) ", text, flags=re.MULTILINE)


def imported(path: Path) -> set[str]:
    """Files of src/blink that a file imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "blink":
            base = (node.module or "").partition(".")[2].replace(".", "/")
            for name in node.names:
                candidates = (
                    f"{base}/{name.name}.py".lstrip("/"),
                    f"{base}.py",
                    f"{base}/__init__.py".lstrip("/"),
                )
                found |= {next(c for c in candidates if (SOURCE / c).is_file())}
    return found


def test_every_file_is_in_the_readme() -> None:
    """Would catch a new file that the reading order forgot, and one that is gone."""
    files = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")}
    assert set(reading_order()) == files


def test_a_file_imports_only_from_files_above_it() -> None:
    """Would catch a cycle, and a low file that reaches up."""
    order = reading_order()
    place = {name: number for number, name in enumerate(order)}
    wrong = [
        f"{name} imports {other}"
        for name in order
        for other in imported(SOURCE / name) - {name}
        if place[other] > place[name]
    ]
    assert not wrong
