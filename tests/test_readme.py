"""The first programs of the README and of the page on usage, as a newcomer pastes them."""

import re
from pathlib import Path

import pytest

from blink.scenes.draw import scene

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("page", ["README.md", "docs/usage.md"])
def test_the_first_program_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Would catch a first program that lacks an import, names what is not there, or tells of nothing that happened."""
    program = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    monkeypatch.chdir(tmp_path)
    scene("test", 0).draw().save("picture.png")  # where it opens the reader's own
    exec(compile(program[1], page, "exec"), {})
    assert "expand" in capsys.readouterr().out


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    """Would catch a page that grows past what a newcomer reads, and a page or picture that has moved."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http://", "https://")) and not (page.parent / target).exists()
    ]
    assert not broken
