"""What the figures that look into a backbone have in common: their interface, and how their settings are read."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import nn

from blink.analysis.cases import Shown, as_seen, tell_unseen
from blink.analysis.kept import Kept
from blink.analysis.probe import Prober
from blink.bench import Sample
from blink.evaluation.planning.presets import layer_study
from blink.inference.policy import parse_layers
from blink.model.backbone import Backbone
from blink.model.prompts import Template
from blink.model.token_sr.files import TokenSRConfig
from blink.model.views import ViewMaker
from blink.runs.style import Drawn
from blink.runs.values import UserError

LayerSetting = int | str | Iterable[int] | None
"""Layers as a user writes them (see `parse_layers`); None: a default."""


@dataclass(frozen=True)
class Subject:
    """The backbone and the questions that a figure is drawn of.

    Attributes:
        backbone: model and processor.
        template: how a question becomes the prompt.
        samples: questions, in the order in which cases are chosen.
        patches: p of p x p regions.
        positions: where an extension stands, as in `Policy`.
        modules: TokenSR by layer; empty where none are needed.
        batch_size: samples at once.
        about: backbone and data in words, for titles.
        kept: what was measured before, of the same subject.
    """

    backbone: Backbone
    template: Template
    samples: list[Sample]
    patches: int
    positions: str
    modules: Mapping[int, nn.Module]
    batch_size: int
    about: str
    kept: Kept = field(default_factory=Kept)

    @property
    def views(self) -> ViewMaker:
        return ViewMaker(self.backbone.processor, grid=self.backbone.grid)

    def prober(self) -> Prober:
        return Prober(self.backbone, self.template, batch_size=self.batch_size, kept=self.kept)

    def shown(self) -> list[Shown]:
        """All samples as the backbone sees them."""
        return self.seen(self.samples)

    def seen(self, samples: Sequence[Sample]) -> list[Shown]:
        """Some samples as the backbone sees them; boxes of which it sees nothing are logged."""
        shown = [as_seen(sample, self.views, self.patches) for sample in samples]
        tell_unseen(shown)
        return shown


class BackboneFigure(ABC):
    """A figure that looks into a backbone; its fields are its settings, checked before any weight is read."""

    reads_questions: ClassVar[bool] = True
    """False: pictures alone matter."""

    @staticmethod
    def needs_modules(settings: Mapping[str, Any]) -> bool:
        """Whether it runs TokenSR modules, given the settings of its group in conf/figure/."""
        return False

    @classmethod
    @abstractmethod
    def from_settings(
        cls, settings: Mapping[str, Any], family: str, num_layers: int, modules: TokenSRConfig | None
    ) -> Self:
        """Read the settings of its group in conf/figure/.

        Args:
            family: row of the preset tables.
            num_layers: decoder layers of the backbone.
            modules: config of the TokenSR modules; None where it needs none.

        Raises:
            ValueError: a value is of another type or out of range.
        """

    def module_layers(self, available: Sequence[int]) -> tuple[int, ...]:
        """Layers whose TokenSR is needed, of modules that have those of `available`."""
        return ()

    @abstractmethod
    def draw(self, subject: Subject) -> Drawn:
        """Run the backbone and draw."""


def layers_setting(
    name: str, given: LayerSetting, default: Iterable[int], num_layers: int
) -> tuple[int, ...]:
    """Layers as given, else the default ones.

    Raises:
        ValueError: they cannot be read, or the backbone has no such layer.
    """
    layers = parse_layers(default if given is None else given)
    if layers[-1] >= num_layers:
        raise UserError(f"{name}={given}: this backbone has decoder layers 0 to {num_layers - 1}")
    return layers


def expansion_layer(given: LayerSetting, family: str, num_layers: int) -> int:
    """`figure.layer`: one layer as given, or that of the backbone's Fig. 6.

    Raises:
        ValueError: it is not exactly one, or the backbone does not have it.
    """
    default = parse_layers(layer_study(family, num_layers).birth)
    layers = layers_setting("figure.layer", given, default, num_layers)
    if len(layers) != 1:
        raise UserError(f"figure.layer={given!r}: expected one layer")
    return layers[0]


def listed(value: Any) -> list[Any]:
    """The values of a setting that takes one or a list."""
    return value if isinstance(value, list) else [value]


def ids_setting(value: Any) -> tuple[str, ...] | None:
    """`figure.ids`: one id or a list of them; None chooses by itself."""
    return None if value is None else tuple(map(str, listed(value)))
