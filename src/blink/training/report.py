"""What a training run achieved: KL of each layer's module beside that of plain interpolation. Table and JSON.

Knows numbers and names only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError, safe_open

from blink.runs.files import read_json, write_json
from blink.runs.values import UserError, fits

SUMMARY = "summary.json"
"""Written last into a run folder: a run that has it is done."""


_SHOWN = (
    "kl_reduction",
    *(
        f"{measure}_{student}"
        for measure in ("kl", "cosine", "norm_ratio")
        for student in ("interpolation", "token_sr")
    ),
)
"""Measures of a layer that the table shows."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The content of summary.json.

    Attributes:
        layers: layer, as a text -> "kl_token_sr", "cosine_interpolation" and so on, means over the held-out images; and
            "kl_reduction", 1 - KL of TokenSR / KL of interpolation.
        mean_kl_token_sr: over the layers.
        steps: optimizer steps.
        unreadable_images: left out.
        narrow_images: left out as well, since their grid of visual tokens has no quadrants.
        backbone, revision: folder or hub id, and its commit on the hub.
        token_sr: folder of the modules.
        provenance: command, versions, commit and fingerprints, as `blink.runs.provenance` records them; None for runs of
            earlier versions.
    """

    layers: dict[str, dict[str, float]]
    mean_kl_token_sr: float
    steps: int
    train_images: int
    held_out_images: int
    unreadable_images: int
    backbone: str
    revision: str | None
    token_sr: str
    narrow_images: int = 0
    provenance: dict[str, Any] | None = None

    @property
    def held_out_loss(self) -> float:
        """What was trained for, on held-out images, as a mean over layers: the loss of answers where these were, else KL."""
        if not self.answered:
            return self.mean_kl_token_sr
        return sum(entry["answer_token_sr"] for entry in self.layers.values()) / len(self.layers)

    @property
    def answered(self) -> bool:
        """Whether modules were trained on answers."""
        return all("answer_token_sr" in entry for entry in self.layers.values())

    @classmethod
    def read(cls, folder: Path) -> "Summary":
        """Read the summary of a run that is done.

        Raises:
            UserError: it is damaged; says what.
        """
        file = folder / SUMMARY
        try:
            found = read_json(file)
            if not isinstance(found, dict):
                raise TypeError("expected a JSON object")
            summary = cls(**found)
            for name, kind in get_type_hints(cls).items():
                if not fits(getattr(summary, name), kind):
                    raise TypeError(f"{name} is {getattr(summary, name)!r}")
            if not summary.layers or any(set(_SHOWN) - entry.keys() for entry in summary.layers.values()):
                raise TypeError("it lacks measures of a layer")
        except (TypeError, ValueError) as cause:
            raise UserError(f"{file} is damaged: {cause}") from cause
        return summary

    def write(self, folder: Path) -> None:
        """Write it into a run's folder, which says that the run is done."""
        write_json(folder / SUMMARY, asdict(self))


def damaged_modules(folder: Path, layers: Iterable[int]) -> list[str]:
    """Return the files of a token_sr folder that are missing or cut off, by their headers; no weight is read.

    Without torch, which a run that is done is returned without.
    """
    damaged = []
    for file in (folder / "config.json", *(folder / f"layer_{layer:02d}.safetensors" for layer in layers)):
        try:
            if file.suffix == ".json":
                read_json(file)
            else:
                with safe_open(file, framework="numpy"):
                    pass
        except (OSError, ValueError, SafetensorError):
            damaged.append(file.name)
    return damaged


def summarise(metrics: Mapping[str, float], layers: Sequence[int], **facts: Any) -> Summary:
    """Arrange what was measured on the held-out images.

    Args:
        metrics: "held_out/layer_12/kl_token_sr" and so on, as the LightningModule logs them.
        layers: trained layers.
        facts: the summary's other fields.
    """
    per_layer = {}
    for layer in layers:
        start = f"held_out/layer_{layer}/"
        measured = {
            name.removeprefix(start): float(value)
            for name, value in metrics.items()
            if name.startswith(start)
        }
        plain = measured["kl_interpolation"]
        reduction = 1 - measured["kl_token_sr"] / plain if plain > 0 else 0.0
        per_layer[str(layer)] = {"kl_reduction": reduction, **measured}
    mean = sum(entry["kl_token_sr"] for entry in per_layer.values()) / len(per_layer)
    return Summary(layers=per_layer, mean_kl_token_sr=mean, **facts)


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Print the table of a run: one row per layer; cosine and norm ratio (or answers' loss) of interpolation -> of TokenSR.

    Where modules trained earlier were measured beside the new ones, their KL stands under "reference".
    """
    table = Table(
        title=f"{summary.held_out_images} held-out images, {summary.steps} steps",
        caption="against the tokens of the zoomed quadrant: KL in nats, less is better; of cosine and norm ratio 1 is best;\n"
        "a -> b: interpolation's, then TokenSR's",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", justify="right", no_wrap=True)
    compared = any("kl_reference" in entry for entry in summary.layers.values())
    headings = ["KL interp.", "KL TokenSR", *(["reference"] if compared else [])]
    answered = summary.answered
    last = "answers' loss" if answered else "norm ratio"  # both would not fit into 80 columns
    for heading in (*headings, "reduction", "cosine", last):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer, entry in summary.layers.items():
        kls = [f"{entry[name]:.5f}" for name in ("kl_interpolation", "kl_token_sr")]
        if compared:
            kls.append(f"{entry['kl_reference']:.5f}" if "kl_reference" in entry else "-")
        table.add_row(
            layer,
            *kls,
            f"{100 * entry['kl_reduction']:.1f} %",
            f"{entry['cosine_interpolation']:.2f} -> {entry['cosine_token_sr']:.2f}",
            f"{entry['answer_interpolation']:.3f} -> {entry['answer_token_sr']:.3f}"
            if answered
            else f"{entry['norm_ratio_interpolation']:.2f} -> {entry['norm_ratio_token_sr']:.2f}",
        )
    console = console or Console(markup=False)  # names of folders may hold brackets
    console.print(table)
    loss = "answer" if answered else "kl"
    worse = [
        layer
        for layer, entry in summary.layers.items()
        if entry[f"{loss}_token_sr"] > entry[f"{loss}_interpolation"]
    ]
    if worse:
        console.print(
            f"Worse than interpolation at layer(s) {', '.join(worse)}: modules start from random weights, and "
            f"{summary.steps} steps may be few for them (images=, epochs=).",
            soft_wrap=True,
        )
    console.print(f"Modules in {summary.token_sr}", soft_wrap=True)
