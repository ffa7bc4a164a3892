"""What is told of TokenSR modules to others: their config, and what their training run has measured.

Folders of the machine that they were trained on are told by their last names alone, also inside recorded commands.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blink.model.token_sr.files import TokenSRConfig, token_sr_config, weights_name
from blink.model.token_sr.source import CONFIG, SHIPPED, find_token_sr
from blink.runs.files import read_json
from blink.runs.values import UserError, text
from blink.training.report import SUMMARY, Summary

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_PLACE = re.compile(r"(?:~|(?<![\w:/.~-]))/(?:[^/\s,\[\]{}'\"=]+/+)*([^/\s,\[\]{}'\"=]+)/*")
"""An absolute path; not one of a URL, and no hub id."""


@dataclass(frozen=True)
class Facts:
    """What is known of a folder of modules.

    Attributes:
        folder: of the modules.
        config: their config.
        base_model: hub id of the backbone; None where it has none that is known.
        summary: of the training run that they come from; None where it is not at hand.
    """

    folder: Path
    config: TokenSRConfig
    base_model: str | None
    summary: Summary | None

    @property
    def files(self) -> list[str]:
        """Names of the files with weights."""
        return [weights_name(layer) for layer in self.config.layers]

    @property
    def backbone(self) -> str:
        """What `blink.load` takes for the backbone: its hub id, "tiny", or the last name of a folder."""
        return self.base_model or without_places(self.config.backbone)

    @property
    def measures(self) -> dict[int, dict[str, float]]:
        """Layer -> what was measured of its module on held-out images; empty where no run is known."""
        return {int(layer): entry for layer, entry in self.summary.layers.items()} if self.summary else {}

    @property
    def worse(self) -> list[int]:
        """Layers whose module is further from what it was trained for than interpolation is, on held-out images."""
        loss = "answer" if self.summary and self.summary.answered else "kl"
        return [
            layer
            for layer in self.config.layers
            if self.measures
            and self.measures[layer][f"{loss}_token_sr"] > self.measures[layer][f"{loss}_interpolation"]
        ]

    @property
    def command(self) -> str | None:
        """The command that trained them, as it was recorded."""
        record = (self.summary.provenance if self.summary else None) or {}
        return without_places(record["command"]) if isinstance(record.get("command"), str) else None

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version that they were trained with."""
        record = (self.summary.provenance if self.summary else None) or {}
        found = record.get("versions")
        return (
            {name: str(number) for name, number in found.items() if number} if isinstance(found, dict) else {}
        )

    @property
    def dataset(self) -> str | None:
        """Hub id of the images that they were trained on, if that is where they came from."""
        data = self._data
        given = data.get("id")
        known = data.get("source") == "hub" and isinstance(given, str) and HUB_ID.fullmatch(given)
        return given if known and not Path(str(given)).is_dir() else None

    @property
    def images(self) -> str:
        """The training images in words; empty where nothing is known of them."""
        root, source = self._data.get("root"), self._data.get("source")
        count = self.summary.train_images if self.summary else self.config.settings.get("images")
        number = f"{count:,} " if isinstance(count, int) else ""
        if self.dataset:
            return f"{number}images of the data set [{self.dataset}](https://huggingface.co/datasets/{self.dataset})"
        if root is not None:
            names = root if isinstance(root, list) else [root]
            return f"{number}images of {', '.join(f'`{without_places(str(name))}`' for name in names)}"
        if source == "scenes":
            return f"{number}generated scenes of coloured shapes, as `blink.scenes` draws them"
        return f"{number}images" if number else ""

    @property
    def _data(self) -> Mapping[str, Any]:
        data = self.config.settings.get("data")
        return data if isinstance(data, Mapping) else {}

    def record(self) -> dict[str, Any]:
        """The config.json to publish: as it is, but for the backbone's name and folders of this machine."""
        kept = read_json(self.folder / CONFIG)
        return {
            **kept,
            "backbone": self.backbone,
            "settings": without_places(kept.get("settings") or {}),
        }


def read_facts(token_sr: str | Path, base_model: str | None = None) -> Facts:
    """Read what is known of a folder of modules, and of the training run whose folder it lies in.

    Args:
        token_sr: folder of the modules, or of the run; or "tiny".
        base_model: hub id of the backbone; None: the recorded one, where that is a hub id.

    Raises:
        UserError: there are no modules, they are on the hub already, `base_model` is no hub id, or the run's summary is
            damaged.
    """
    source = find_token_sr(token_sr)
    if source.folder is None:
        raise UserError(
            f"token_sr={source.given!r} is no folder: expected one that `python -m blink.train` has left"
        )
    config = token_sr_config(source.folder)
    if base_model is not None and not HUB_ID.fullmatch(text("base_model", base_model)):
        raise UserError(f"base_model={base_model!r}: expected the hub id of the backbone (owner/name)")
    if base_model is None and _is_hub_id(config):
        base_model = config.backbone
    return Facts(source.folder, config, base_model, _summary_of(source.folder, config))


def without_places(value: Any) -> Any:
    """A JSON value with every absolute path in its texts cut down to its last name."""
    if isinstance(value, str):
        return _PLACE.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {key: without_places(part) for key, part in value.items()}
    return [without_places(part) for part in value] if isinstance(value, list) else value


def _is_hub_id(config: TokenSRConfig) -> bool:
    """Whether the recorded backbone is on the hub: a folder's weights were hashed, and it may be gone by now."""
    name = config.backbone
    return bool(
        name != SHIPPED
        and config.backbone_weights is None
        and HUB_ID.fullmatch(name)
        and not Path(name).is_dir()
    )


def _summary_of(folder: Path, config: TokenSRConfig) -> Summary | None:
    """The summary of the run that made these modules; None if there is none, or it is of other modules."""
    run = folder.resolve().parent
    if not (run / SUMMARY).is_file():
        return None
    summary = Summary.read(run)
    same = summary.backbone == config.backbone and summary.steps == config.steps
    return summary if same and {*map(str, config.layers)} <= summary.layers.keys() else None
