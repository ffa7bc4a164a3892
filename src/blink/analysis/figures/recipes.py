"""Figures that look into a backbone: what each needs, checked before weights are read, and how it comes about."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from blink.analysis.cases import Shown, as_seen
from blink.analysis.figures import attention_maps, attention_ratio, redistribution, tokensr
from blink.analysis.figures.redistribution_cases import case_table, draw_cases
from blink.analysis.probe import Prober
from blink.bench import Sample
from blink.evaluation.presets import LAYER_STUDIES
from blink.inference.policy import parse_layers
from blink.model.backbone import Backbone
from blink.model.prompts import Template
from blink.model.token_sr import placed
from blink.model.views import QUADRANTS, ViewMaker, prefix_ids, quadrants
from blink.runs.style import Drawn

_SHOWN_LAYERS = 6

LayerSetting = int | str | Iterable[int] | None


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Attributes:
        backbone: model and processor.
        template: how a question becomes the prompt.
        samples: questions, in the order in which cases are chosen.
        patches: p of p x p regions.
        modules: TokenSR by layer; empty where none are needed.
        batch_size: samples at once.
        about: backbone and data in words, for titles.
    """

    backbone: Backbone
    template: Template
    samples: list[Sample]
    patches: int
    modules: Mapping[int, nn.Module]
    batch_size: int
    about: str

    @property
    def views(self) -> ViewMaker:
        return ViewMaker(self.backbone.processor)

    def prober(self) -> Prober:
        """A prober of the backbone with the modules."""
        return Prober(self.backbone, self.template, modules=self.modules, batch_size=self.batch_size)

    def shown(self) -> list[Shown]:
        """All samples as the backbone sees them."""
        return [as_seen(sample, self.views, self.patches) for sample in self.samples]


@dataclass(frozen=True)
class AttentionMaps:
    """Fig. 2."""

    layers: tuple[int, ...]
    cases: int
    ids: tuple[str, ...] | None

    @classmethod
    def planned(cls, settings: Mapping[str, Any], family: str, num_layers: int) -> "AttentionMaps":
        """Read the settings of conf/figure/attention_maps.yaml."""
        last = num_layers - 1
        evenly = sorted({round(last * i / (_SHOWN_LAYERS - 1)) for i in range(_SHOWN_LAYERS)})
        layers = _layers("figure.layers", settings["layers"], evenly, num_layers)
        return cls(layers, _count("figure.cases", settings["cases"]), _ids(settings["ids"]))

    def module_layers(self, available: Sequence[int]) -> tuple[int, ...]:
        """Layers whose TokenSR is needed."""
        return ()

    def draw(self, subject: Subject) -> Drawn:
        chosen = choose_cases(subject.samples, self.cases, self.ids)
        shown = [as_seen(sample, subject.views, subject.patches) for sample in chosen]
        cases = attention_maps.measure(subject.prober(), shown, self.layers, subject.patches)
        figure = attention_maps.draw(shown, cases, subject.patches, f"Attention by layer: {subject.about}")
        maps = [
            {
                "id": case.sample.id,
                "question": case.sample.question,
                "maps": {m.layer: m.attention_HW for m in found},
            }
            for case, found in zip(shown, cases, strict=True)
        ]
        return Drawn({"attention_maps": figure}, attention_maps.table(shown, cases), {"cases": maps})


@dataclass(frozen=True)
class AttentionRatio:
    """Fig. 3."""

    layers: tuple[int, ...]
    singles: int

    @classmethod
    def planned(cls, settings: Mapping[str, Any], family: str, num_layers: int) -> "AttentionRatio":
        """Read the settings of conf/figure/attention_ratio.yaml."""
        layers = _layers("figure.layers", settings["layers"], range(num_layers), num_layers)
        return cls(layers, _count("figure.singles", settings["singles"], least=0))

    def module_layers(self, available: Sequence[int]) -> tuple[int, ...]:
        """Layers whose TokenSR is needed."""
        return ()

    def draw(self, subject: Subject) -> Drawn:
        singles = choose_cases(subject.samples, self.singles, None)
        others = [sample for sample in subject.samples if sample not in singles]
        subject = replace(subject, samples=[*singles, *others])
        right = [case.right for case in subject.shown()]
        found = attention_ratio.measure(
            subject.prober(), subject.samples, right, self.layers, subject.patches
        )
        title = f"Attention ratio, {subject.patches} x {subject.patches} regions\n{subject.about}"
        numbers = {
            "patches": subject.patches,
            "layers": self.layers,
            "samples": [
                {"id": name, "picture": picture, "right": right, "ratio": ratio_L, "region": region_L}
                for (name, picture), right, ratio_L, region_L in zip(
                    found.samples, found.right_N, found.ratio_NL, found.hottest_NL, strict=True
                )
            ],
        }
        figure = attention_ratio.draw(found, title, self.singles)
        return Drawn({"attention_ratio": figure}, attention_ratio.table(found), numbers)


@dataclass(frozen=True)
class Redistribution:
    """Fig. 6 and 8."""

    birth: int
    show: tuple[int, ...]
    cases: int
    ids: tuple[str, ...] | None
    refine: bool

    @classmethod
    def planned(cls, settings: Mapping[str, Any], family: str, num_layers: int) -> "Redistribution":
        """Read the settings of conf/figure/redistribution.yaml."""
        birth = _birth(settings["layer"], family, num_layers)
        study = LAYER_STUDIES.get(family)
        if study is not None and settings["layer"] is None:
            usual = study.shown
        else:
            usual = (birth + 1, birth + max(2, num_layers // 4))
        usual = tuple(layer for layer in usual if layer < num_layers) or (birth,)
        show = _layers("figure.show", settings["show"], usual, num_layers)
        if show[0] < birth:
            raise ValueError(
                f"figure.show={list(show)}: the extension is made at layer {birth}; show later layers"
            )
        if not isinstance(settings["refine"], bool):
            raise ValueError(f"figure.refine={settings['refine']!r}: expected true or false")
        cases = _count("figure.cases", settings["cases"])
        return cls(birth, show, cases, _ids(settings["ids"]), settings["refine"])

    def module_layers(self, available: Sequence[int]) -> tuple[int, ...]:
        """Layers whose TokenSR is needed."""
        return (self.birth,) if self.refine else ()

    def draw(self, subject: Subject) -> Drawn:
        chosen = choose_cases(subject.samples, self.cases, self.ids)
        others = [sample for sample in subject.samples if sample not in chosen]
        shown = replace(subject, samples=[*chosen, *others]).shown()
        prober = subject.prober()
        found = redistribution.measure(
            prober, shown, self.birth, subject.patches, refine=self.refine, keep_maps=len(chosen)
        )
        title = f"Attention after the hottest region was expanded at layer {self.birth}\n{subject.about}"
        single = draw_cases(shown[: len(chosen)], found, self.show, prober.backbone.grid, title)
        figures = {"redistribution": redistribution.draw(found, title), "redistribution_cases": single}
        numbers = {
            "layer": self.birth,
            "samples": len(found.ids),
            "cases": case_table(shown[: len(chosen)], found),
        }
        return Drawn(figures, redistribution.table(found), numbers)


@dataclass(frozen=True)
class TokenSRFigure:
    """TokenSR and interpolation against the zoomed quadrant."""

    layer: int
    cases: int
    pictures: int
    temperature: float

    @classmethod
    def planned(cls, settings: Mapping[str, Any], family: str, num_layers: int) -> "TokenSRFigure":
        """Read the settings of conf/figure/tokensr.yaml, the temperature filled in."""
        temperature = settings["temperature"]
        if not isinstance(temperature, int | float) or isinstance(temperature, bool) or temperature <= 0:
            raise ValueError(f"figure.temperature={temperature!r}: expected a number above 0")
        cases, pictures = (_count(f"figure.{key}", settings[key]) for key in ("cases", "pictures"))
        return cls(_birth(settings["layer"], family, num_layers), cases, pictures, float(temperature))

    def module_layers(self, available: Sequence[int]) -> tuple[int, ...]:
        """Layers whose TokenSR is needed: the one shown, and all others that there are."""
        return tuple(sorted({self.layer, *available}))

    def draw(self, subject: Subject) -> Drawn:
        backbone = subject.backbone
        modules = {layer: placed(module, *backbone.place(layer)) for layer, module in subject.modules.items()}
        pictures = list({sample.image: sample for sample in subject.samples}.values())[: self.pictures]
        images = [sample.load_image() for sample in pictures]
        views = [subject.views(image) for image in images]
        prefix = prefix_ids(backbone.processor, subject.template.prefix)
        found = tokensr.measure(backbone, prefix, views, modules, self.temperature)
        rows = []
        for number in range(min(self.cases, len(images))):
            own = {self.layer: modules[self.layer]}
            quadrant = number % QUADRANTS
            tokens = tokensr.features(backbone, prefix, views[number], own)[self.layer][quadrant]
            rows.append((quadrants(subject.views.seen(images[number]))[quadrant], tokens))
        title = f"{subject.about.partition(',')[0]}, {len(images)} pictures x 4 quadrants"
        figures = {
            "tokensr": tokensr.draw(found, self.layer, f"TokenSR and interpolation: {title}"),
            "tokensr_features": tokensr.draw_features(
                rows, f"Visual tokens that enter layer {self.layer}: {title}"
            ),
        }
        numbers = {"temperature": self.temperature, "kl_per_cell": found.kl, "cosine_per_cell": found.cosine}
        return Drawn(figures, tokensr.table(found), numbers)


Recipe = AttentionMaps | AttentionRatio | Redistribution | TokenSRFigure

RECIPES: dict[str, type[Recipe]] = {
    "attention_maps": AttentionMaps,
    "attention_ratio": AttentionRatio,
    "redistribution": Redistribution,
    "tokensr": TokenSRFigure,
}


def spread_out(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """At most `count` samples, drawn evenly from all and kept in their order."""
    if len(samples) <= count:
        return list(samples)
    return [samples[i] for i in sorted(random.Random(seed).sample(range(len(samples)), count))]


def choose_cases(samples: Sequence[Sample], count: int, ids: Sequence[str] | None) -> list[Sample]:
    """The samples called `ids`, or `count` of different pictures if there are as many, with a box if there are.

    Raises:
        ValueError: an id is not among the samples.
    """
    if ids is not None:
        by_id = {sample.id: sample for sample in samples}
        missing = [name for name in ids if name not in by_id]
        if missing:
            raise ValueError(
                f"figure.ids={missing}: not among the {len(samples)} questions looked at, such as {next(iter(by_id))}; "
                "samples= takes more of them"
            )
        return [by_id[name] for name in ids]
    seen: dict[str, int] = {}
    ranks = []
    for place, sample in enumerate(samples):
        boxed = sample.details.get("box") is not None
        earlier = seen.get(f"{sample.image} {boxed}", 0)
        seen[f"{sample.image} {boxed}"] = earlier + 1
        ranks.append((not boxed, earlier, place))
    return [samples[place] for _, _, place in sorted(ranks)[:count]]


def _birth(layer: LayerSetting, family: str, num_layers: int) -> int:
    """One layer: as given, or the backbone's of Fig. 6, or at the same relative depth (12 of 32)."""
    study = LAYER_STUDIES.get(family)
    usual = parse_layers(study.birth) if study is not None else (num_layers * 12 // 32,)
    found = _layers("figure.layer", layer, usual, num_layers)
    if len(found) != 1:
        raise ValueError(f"figure.layer={layer!r}: expected one layer")
    return found[0]


def _layers(key: str, given: LayerSetting, usual: Iterable[int], num_layers: int) -> tuple[int, ...]:
    found = parse_layers(usual if given is None else given)
    if found[-1] >= num_layers:
        raise ValueError(f"{key}={given}: this backbone has decoder layers 0 to {num_layers - 1}")
    return found


def _count(key: str, value: Any, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{key}={value!r}: expected a whole number of at least {least}")
    return value


def _ids(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(map(str, value if isinstance(value, list) else [value]))
