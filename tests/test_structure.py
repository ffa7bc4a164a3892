"""Rooms and reading order: imports run one way between the rooms of the package and, inside a room, between its files."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "blink"
TESTS = ROOT / "tests"

ROOMS = (
    "runs",
    "model",
    "inference",
    "scenes",
    "bench",
    "training",
    "evaluation",
    "analysis",
    "integrations",
)
"""From left to right: a room imports only from rooms left of it."""

STRANGERS = {("training", "evaluation"), ("evaluation", "training")}
"""Rooms that do not know each other: what both need lies left of them."""

COMMANDS = {"train", "eval", "analyze", "explain", "score", "compare", "tune", "push", "serve", "demo"}


def reading_order(room: Path) -> list[str]:
    """Files and sub-rooms ("tiny/") of a room, in the order of its docstring."""
    doc = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return re.findall(r"^    (\w+(?:\.py|/)) ", doc, flags=re.MULTILINE)


def held_elsewhere(folder: Path) -> dict[str, list[str]]:
    """File of a room -> files of tests that hold its tests, from the docstring of a folder's conftest."""
    conftest = folder / "conftest.py"
    doc = ast.get_docstring(ast.parse(conftest.read_text(encoding="utf-8"))) if conftest.is_file() else ""
    found = re.findall(r"^ *(\w+\.py) {2,}(\S.*)$", doc or "", flags=re.MULTILINE)
    return {name: holders.split(", ") for name, holders in found}


def rooms() -> list[Path]:
    """Every folder of code, sub-rooms included."""
    return sorted({path.parent for path in SOURCE.rglob("*.py")} - {SOURCE})


def imported(path: Path) -> set[Path]:
    """Files of the package that a file imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "blink":
            base = SOURCE.joinpath(*(node.module or "").split(".")[1:])
            for name in node.names:
                candidates = (base / f"{name.name}.py", base.with_suffix(".py"), base / "__init__.py")
                found.add(next(candidate for candidate in candidates if candidate.is_file()))
    return found - {path}


def place(path: Path) -> tuple[str, ...]:
    """Rooms from the outermost to the innermost, and the file: ("scenes", "tiny", "model.py")."""
    return path.relative_to(SOURCE).parts


def test_the_package_is_rooms_and_thin_commands() -> None:
    """Would catch a file that belongs to no room, and a room that nobody planned."""
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders == set(ROOMS)
    assert {path.stem for path in SOURCE.glob("*.py")} == {"__init__", *COMMANDS}


def test_rooms_stay_small() -> None:
    """Would catch a room that grows flat again."""
    assert not {str(room): count for room in rooms() if (count := len(list(room.glob("*.py"))) - 1) > 12}


def test_every_file_is_in_its_rooms_docstring() -> None:
    """Would catch a new file that the reading order forgot, and one that is gone."""
    for room in rooms():
        files = {path.name for path in room.glob("*.py")} - {"__init__.py"}
        inner = {f"{path.name}/" for path in room.iterdir() if (path / "__init__.py").is_file()}
        order = reading_order(room)
        assert len(order) == len(set(order)), room
        assert set(order) == files | inner, room


def test_the_readme_shows_every_room_and_command() -> None:
    """Would catch a room that a newcomer is not told of."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.findall(r"^  (\w+(?:\.py|/)) ", text, flags=re.MULTILINE)
    assert [name.rstrip("/") for name in tree if name.endswith("/") and name != "assets/"] == list(ROOMS)
    method = re.findall(r"^    (\w+(?:\.py|/)) ", text, flags=re.MULTILINE)
    assert method == reading_order(SOURCE / "inference")


def test_tests_mirror_the_package() -> None:
    """Would catch a file without tests of its own that nobody says where they are, and words about a file that is gone.

    The tests of src/blink/<room>/<file>.py are tests/<room>/test_<file>.py, or the docstring of tests/<room>/conftest.py
    names the files that hold them, below that folder or below tests/.
    """
    wrong = []
    for room in [SOURCE, *rooms()]:
        folder = TESTS / room.relative_to(SOURCE)
        files = {path.name for path in room.glob("*.py")} - {"__init__.py"}
        elsewhere = held_elsewhere(folder)
        wrong += [f"{folder / 'conftest.py'} names {name}" for name in sorted(set(elsewhere) - files)]
        for name in files:
            for holder in elsewhere.get(name, [f"test_{name}"]):
                own = folder / holder
                if not own.is_file() and not (name in elsewhere and (TESTS / holder).is_file()):
                    wrong.append(f"{(room / name).relative_to(SOURCE)}: there is no {own.relative_to(ROOT)}")
    assert not wrong


def test_rooms_import_one_way() -> None:
    """Would catch a low room that reaches up, a room that imports a command, and two strangers that met."""
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = place(path)[0]
        for other in imported(path):
            theirs = place(other)[0]
            if room not in ROOMS or room == theirs:
                continue
            above = theirs not in ROOMS or ROOMS.index(theirs) > ROOMS.index(room)
            if above or (room, theirs) in STRANGERS:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other.relative_to(SOURCE)}")
    assert not wrong


def test_files_of_a_room_import_one_way() -> None:
    """Would catch a cycle inside a room. A sub-room counts as one entry; a room's `__init__` comes last."""
    wrong = []
    for room in rooms():
        order = [*reading_order(room), "__init__.py"]
        depth = len(place(room / "__init__.py")) - 1
        for path in room.rglob("*.py"):
            for other in imported(path):
                if place(other)[:depth] != place(path)[:depth]:
                    continue
                mine, theirs = (entry(place(each), depth) for each in (path, other))
                if mine != theirs and order.index(theirs) > order.index(mine):
                    wrong.append(f"{path.relative_to(SOURCE)} imports {other.relative_to(SOURCE)}")
    assert not wrong


def entry(parts: tuple[str, ...], depth: int) -> str:
    """How a room's reading order names the file or the sub-room that holds it."""
    return parts[depth] if len(parts) == depth + 1 else f"{parts[depth]}/"
