"""TokenSR against plain interpolation: how far each is from the tokens of the zoomed quadrant, layer by layer.

As in training: the teacher is what enters a layer when the backbone sees a quadrant of the picture alone, the student
is made of the full view's region. Nothing of a question takes part.

Axes: B quadrants, d hidden width, H x W grid, L layers.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from blink.analysis.figures.base import BackboneFigure, Subject, expansion_layer
from blink.analysis.kept import Kept, Piece
from blink.bench.statistics import Floats
from blink.model.backbone import Backbone
from blink.model.token_sr import placed
from blink.model.token_sr.files import TokenSRConfig
from blink.model.views import QUADRANTS, ViewMaker, Views, quadrants
from blink.runs.signals import finishing_first
from blink.runs.style import BLACK, INTERP, TOKEN_SR, Drawn, bare, legend_above, plain
from blink.runs.values import UserError, number, whole_number
from blink.training.features.picture import principal_colours
from blink.training.features.states import QuadrantFeatures, layers_read, quadrant_features, trunk_features

log = logging.getLogger(__name__)

STUDENTS = {"interp": INTERP, "token_sr": TOKEN_SR}


class Distance(NamedTuple):
    """Per grid cell, means over pictures and quadrants; layer -> student -> [H, W].

    The grid is the first picture's. What belongs to another is spread over its cells by area, so that means stay.

    Attributes:
        kl: KL(teacher || student) of the softmax over channels, in nats.
        cosine: cosine of student and teacher.
        pictures: how many.
        temperature: of the softmax.
    """

    kl: dict[int, dict[str, Floats]]
    cosine: dict[int, dict[str, Floats]]
    pictures: int
    temperature: float


def measure(
    backbone: Backbone,
    views: Sequence[Views],
    modules: Mapping[int, nn.Module],
    temperature: float,
    kept: Kept | None = None,
) -> Distance:
    """Compare both students with the teacher on every layer that has a module.

    Args:
        views: of each picture.
        modules: TokenSR by layer, on the layer's device and in its dtype.
        kept: pictures that were compared before.

    Raises:
        Stopped: a signal asks for an end; after the picture that was being compared.
    """
    kept, sums = kept or Kept(), dict[str, Tensor]()
    grid: tuple[int, int] | None = None
    for index, view in enumerate(track(views, "comparing", transient=True)):
        with finishing_first() as pending:
            compared = partial(_compared, backbone, view, modules, temperature)
            for key, value in kept.piece(f"comparing {index}", compared).tensors.items():
                H, W = grid = grid or (value.shape[0], value.shape[1])
                shared = spread(value, (H, W))
                sums[key] = sums[key] + shared if key in sums else shared
            pending.check(f"{index + 1:,} of {len(views):,} pictures are compared")
    count = len(views) * QUADRANTS
    kl, cosine = (
        {
            layer: {name: (sums[f"{key} {layer} {name}"] / count).numpy() for name in STUDENTS}
            for layer in modules
        }
        for key in ("kl", "cosine")
    )
    return Distance(kl, cosine, len(views), temperature)


def _compared(backbone: Backbone, view: Views, modules: Mapping[int, nn.Module], temperature: float) -> Piece:
    """Sums over the quadrants of one picture: measure, layer and student -> [H, W] float64."""
    sums = {}
    for layer, found in features(backbone, view, modules).items():
        students = {"interp": found.interpolated_NdHW, "token_sr": found.refined_NdHW}
        teacher = found.teacher_NdHW.float()
        for name in STUDENTS:
            student = students[name].float()
            kl_HW = token_kl_map(student, teacher, temperature).sum(dim=0).double()
            cosine_HW = F.cosine_similarity(student, teacher, dim=1).sum(dim=0).double()
            sums[f"kl {layer} {name}"], sums[f"cosine {layer} {name}"] = kl_HW.cpu(), cosine_HW.cpu()
    return Piece(sums, None)


@torch.inference_mode()
def features(
    backbone: Backbone, view: Views, modules: Mapping[int, nn.Module]
) -> dict[int, QuadrantFeatures]:
    """Tokens of the four quadrants of one picture, by layer."""
    (found,) = trunk_features(backbone, move_data_to_device(view, backbone.device), layers_read(modules))
    return {layer: quadrant_features(found, layer, module) for layer, module in modules.items()}


def spread(of_HW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Values of the cells of one grid for those of another over the same picture: means weighted by shared area."""
    if of_HW.shape == grid:
        return of_HW
    rows, columns = (_shares(to, of).to(of_HW.dtype) for to, of in zip(grid, of_HW.shape, strict=True))
    return rows @ of_HW @ columns.T


def _shares(to: int, of: int) -> Tensor:
    """How much each of `to` equal parts of a line holds of each of `of` parts, as shares of the former: [to, of]."""
    i, j = torch.arange(to)[:, None], torch.arange(of)
    shared = torch.minimum((i + 1) * of, (j + 1) * to) - torch.maximum(i * of, j * to)
    return shared.clamp_min(0) / of


def token_kl_map(student_BdHW: Tensor, teacher_BdHW: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of each token's softmax over channels: [B, H, W] float32, in nats."""
    student, teacher = (
        (part.float() / temperature).log_softmax(dim=1) for part in (student_BdHW, teacher_BdHW)
    )
    return F.kl_div(student, teacher, log_target=True, reduction="none").sum(dim=1)


def table(found: Distance) -> list[dict[str, object]]:
    """One record per layer."""
    return [
        {
            "layer": layer,
            "pictures": found.pictures,
            "temperature": found.temperature,
            **{
                f"{measure}_{name}": round(float(by_layer[layer][name].mean()), 6)
                for measure, by_layer in (("kl", found.kl), ("cosine", found.cosine))
                for name in STUDENTS
            },
        }
        for layer in found.kl
    ]


def draw(found: Distance, layer: int, title: str) -> Figure:
    """KL and cosine against the layer, and the KL of every grid cell at one layer.

    Args:
        layer: of the maps, one that has a module.
    """
    figure = Figure(figsize=(7.4, 5.6), layout="constrained")
    figure.suptitle(plain(title))
    parts: Any = figure.subfigures(2, 1)
    curves, maps = parts
    axes_row = curves.subplots(1, 2)
    layers = list(found.kl)
    for axes, by_layer, name in zip(
        axes_row,
        (found.kl, found.cosine),
        (f"KL to the teacher\n(nats, temperature {found.temperature:g})", "cosine with the teacher"),
        strict=True,
    ):
        for key, line in STUDENTS.items():
            values = [by_layer[at][key].mean() for at in layers]
            axes.plot(
                layers, values, color=line.colour, linestyle=line.dash, marker=line.marker, label=line.label
            )
        axes.axvline(layer, color=BLACK, linewidth=0.6, linestyle=":")
        axes.set_xlabel("layer")
        axes.set_xticks(layers[:: max(1, len(layers) // 8)])
        axes.set_ylabel(name)
    axes_row[0].set_ylim(bottom=0)
    legend_above(axes_row[0])
    greatest = max(found.kl[layer][name].max() for name in STUDENTS)
    grid = maps.subplots(1, 2)
    image = None
    for axes, (name, line) in zip(grid, STUDENTS.items(), strict=True):
        image = axes.imshow(found.kl[layer][name], vmin=0, vmax=greatest)
        bare(axes)
        axes.set_title(f"{line.label}, layer {layer}: mean {found.kl[layer][name].mean():.3f}")
    assert image is not None
    maps.colorbar(image, ax=list(grid), label="KL per grid cell (nats)")
    return figure


def draw_features(rows: Sequence[tuple[object, Sequence[Tensor]]], title: str) -> Figure:
    """Tokens as colours: coarse, interpolated, TokenSR's and the teacher's.

    Red, green and blue are the first three principal components of the teacher's and students' tokens of a row, each
    stretched from its 1st to its 99th percentile: equal colours in one row are equal tokens up to the rest. Each
    quadrant has two rows: the tokens as they are, and each part less its own mean token, without which a shift that
    is common to all tokens would hide what they show.

    Args:
        rows: a quadrant as a picture, and its tokens at one layer, as `principal_colours` takes them.
    """
    titles = ("quadrant", "coarse", "interpolated", "TokenSR", "teacher")
    figure = Figure(figsize=(7.4, 3.1 * len(rows) + 0.8), layout="constrained")
    figure.suptitle(plain(title))
    grid = figure.subplots(2 * len(rows), len(titles), squeeze=False)
    both = [(*row, less_mean) for row in rows for less_mean in (False, True)]
    for axes_row, (picture, tokens, less_mean) in zip(grid, both, strict=True):
        for axes, shown in zip(axes_row, (picture, *principal_colours(tokens, less_mean)), strict=True):
            axes.imshow(np.asarray(shown))
            bare(axes)
        axes_row[0].set_ylabel("less own mean" if less_mean else "as they are")
    for axes, name in zip(grid[0], titles, strict=True):
        axes.set_title(name)
    figure.supxlabel("colours: three principal components of the tokens of a row", fontsize="small")
    return figure


@dataclass(frozen=True)
class TokenSRFigure(BackboneFigure):
    """TokenSR and interpolation against the zoomed quadrant, as conf/figure/tokensr.yaml describes it."""

    layer: int
    cases: int
    pictures: int
    temperature: float

    reads_questions = False

    @staticmethod
    def needs_modules(settings: Mapping[str, Any]) -> bool:
        return True

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], family: str, num_layers: int, modules: TokenSRConfig | None
    ) -> Self:
        assert modules is not None, "the figure is about modules"
        temperature = settings["temperature"]
        if temperature is None:
            temperature = modules.settings.get("objective", {}).get("temperature", 1.0)
        return cls(
            layer=expansion_layer(settings["layer"], family, num_layers),
            cases=whole_number("figure.cases", settings["cases"]),
            pictures=whole_number("figure.pictures", settings["pictures"]),
            temperature=number("figure.temperature", temperature, above=0),
        )

    def module_layers(self, available: Sequence[int]) -> tuple[int, ...]:
        """The layer shown, and all others that there are."""
        return tuple(sorted({self.layer, *available}))

    def draw(self, subject: Subject) -> Drawn:
        backbone = subject.backbone
        modules = {
            layer: placed(module, backbone.device, backbone.dtype)
            for layer, module in subject.modules.items()
        }
        maker = ViewMaker(backbone.processor, subject.template.prefix, backbone.grid)
        pictures = list({sample.image: sample for sample in subject.samples}.values())[: self.pictures]
        loaded = [sample.load_image() for sample in pictures]
        images = [image for image in loaded if maker.has_quadrants(image.size)]
        if len(images) < len(loaded):
            log.warning(
                "left out %d of %d pictures, too narrow to have quadrants",
                len(loaded) - len(images),
                len(loaded),
            )
        if not images:
            raise UserError(
                f"all {len(loaded)} pictures are too narrow to have quadrants; the figure needs one"
            )
        views = [maker(image) for image in images]
        found = measure(backbone, views, modules, self.temperature, subject.kept)
        rows = []
        for index in range(min(self.cases, len(images))):
            quadrant = index % QUADRANTS
            found_here = features(backbone, views[index], {self.layer: modules[self.layer]})
            zoomed = quadrants(maker.seen(images[index]), maker.grid(images[index].size))[quadrant]
            rows.append((zoomed, [part[quadrant] for part in found_here[self.layer]]))
        title = f"{subject.about.partition(',')[0]}, {len(images)} pictures x 4 quadrants"
        figures = {
            "tokensr": draw(found, self.layer, f"TokenSR and interpolation: {title}"),
            "tokensr_features": draw_features(rows, f"Visual tokens that enter layer {self.layer}: {title}"),
        }
        numbers = {"temperature": self.temperature, "kl_per_cell": found.kl, "cosine_per_cell": found.cosine}
        return Drawn(figures, table(found), numbers)
