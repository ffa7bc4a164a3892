"""The folder that is uploaded: weights as they are, config.json, the model card and its plot."""

import os
import shutil
from pathlib import Path

from blink.integrations.hub.card import CARD, PLOT, check_card, kl_plot, model_card
from blink.integrations.hub.facts import Facts
from blink.model.token_sr.source import CONFIG
from blink.runs.files import make_folder, read_text, write_json, write_text
from blink.runs.style import save_figure
from blink.runs.values import UserError

OURS = ("layer_*.safetensors", PLOT)
"""Files of earlier releases that are not among a new one's, and go."""


def write_release(
    facts: Facts, folder: Path, *, repo: str, license: str | None, card: Path | None = None
) -> list[str]:
    """Write all that is uploaded into a folder, and return the files' names. Other files in it are left alone.

    Args:
        facts: of the modules.
        folder: made if missing; not that of the modules.
        repo: id that the modules will have on the hub.
        license: of the modules; None names none.
        card: a README.md of the user's own, in place of the written one; it may lie in `folder`.

    Raises:
        UserError: the folder is that of the modules, no folder can be made there, or the card cannot be read.
    """
    text = model_card(facts, repo, license) if card is None else _own_card(card)
    make_folder(folder)
    if folder.resolve() == facts.folder.resolve():
        raise UserError(f"{folder} holds the modules themselves: what is uploaded needs a folder of its own")
    for old in (path for pattern in OURS for path in folder.glob(pattern)):
        old.unlink()
    for name in facts.files:
        _place(facts.folder / name, folder / name)
    write_json(folder / CONFIG, facts.record())
    write_text(folder / CARD, text)
    if facts.measures:
        save_figure(kl_plot(facts), folder / PLOT, dpi=150)
    return [CARD, CONFIG, *facts.files, *([PLOT] if facts.measures else [])]


def _own_card(card: Path) -> str:
    text = read_text(card)
    try:
        check_card(text)
    except Exception as error:  # of YAML, or of the hub's checks
        raise UserError(f"card={card} is no model card: {str(error).splitlines()[0]}") from error
    return text


def _place(file: Path, target: Path) -> None:
    """Weights are linked, since they may be gigabytes, or copied where that cannot be."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)
