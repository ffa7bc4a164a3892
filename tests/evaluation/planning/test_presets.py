"""The paper's settings, read off appendices B and C by hand."""

import pytest

from blink.bench import BENCHMARKS
from blink.evaluation.planning.presets import (
    LAYER_STUDIES,
    OTHER,
    PRESETS,
    LayerStudy,
    layer_study,
    preset,
    resolve,
)
from blink.inference.policy import parse_layers


@pytest.mark.parametrize(
    ("family", "benchmark", "expected"),
    [
        ("llava15_7b", "mme", ("12-18", 0.5, 0.4)),
        ("llava15_7b", "mmvet", ("12-18", 0.5, 0.4)),
        ("llava15_7b", "gqa", ("12-18", 0.6, 0.4)),
        ("llava15_7b", "pope", ("18", 0.5, 0.4)),
        ("llava15_7b", "mmbench", ("18", 0.25, 0.4)),
        ("llava15_7b", "mmbench_cn", ("18", 0.25, 0.4)),
        ("llava15_7b", "scienceqa", ("18", 0.25, 0.4)),
        ("llava_next_7b", "mme", ("12-20", 0.4, 0.3)),
        ("llava_next_7b", "pope", ("14-20", 0.5, 0.4)),
        ("llava_next_7b", "mmvet", ("14-20", 0.5, 0.4)),
    ],
)
def test_the_papers_settings(family: str, benchmark: str, expected: tuple[str, float, float]) -> None:
    """Catches a setting copied to the wrong benchmark or backbone."""
    found = preset(family, benchmark)
    assert found is not None
    assert found[:3] == expected
    assert found.source.startswith("paper, App.")


FAMILIES = {"llava15_7b": 32, "llava15_13b": 40, "llava_next_7b": 32, "llava_next_mistral_7b": 32, "tiny": 16}
"""Backbones and their numbers of decoder layers, by their published configs."""


def test_every_backbone_has_all_benchmarks_and_a_layer_study() -> None:
    """Would catch a backbone or benchmark left out of a table, and one that no config offers."""
    assert set(PRESETS) == {(family, benchmark) for family in FAMILIES for benchmark in BENCHMARKS}
    assert {family: study.num_layers for family, study in LAYER_STUDIES.items()} == FAMILIES


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_choices_for_unlisted_backbones_are_said_and_follow_their_models(benchmark: str) -> None:
    """Would catch a choice passed off as the paper's, and 7B's layer numbers given to 40 layers."""
    deeper, mistral = PRESETS["llava15_13b", benchmark], PRESETS["llava_next_mistral_7b", benchmark]
    assert deeper.source.startswith("chosen here")
    assert mistral.source.startswith("chosen here")
    paper = PRESETS["llava15_7b", benchmark]
    assert deeper[1:3] == paper[1:3]
    ends = [parse_layers(found.layers)[i] for found in (paper, deeper) for i in (0, -1)]
    assert ends[2:] == [layer * 40 // 32 for layer in ends[:2]]
    assert mistral[:3] == PRESETS["llava_next_7b", benchmark][:3]


def test_presets_lie_within_their_backbone() -> None:
    """Would catch a layer that the backbone does not have."""
    for (family, _), found in PRESETS.items():
        assert parse_layers(found.layers)[-1] < FAMILIES[family]


def test_layer_studies_of_the_paper() -> None:
    """Would catch a range of Table 3 or a copied layer of Fig. 4 read off wrongly, and sweeps that are one off."""
    study = LAYER_STUDIES["llava15_7b"]
    assert study.ranges == ("11-17", "12-18", "13-19", "14-20")
    assert study.copies == ("14", "16", "18")
    assert (study.birth, study.shown) == ("12", (13, 20))
    assert (study.starts[0], study.starts[-1], len(study.starts)) == ("0-18", "18-18", 19)
    assert (study.ends[0], study.ends[-1], len(study.ends)) == ("12-12", "12-31", 20)
    assert (study.singles[0], study.singles[-1], len(study.singles)) == ("0", "31", 32)


@pytest.mark.parametrize(("family", "study"), LAYER_STUDIES.items())
def test_layer_studies_hold_together(family: str, study: LayerStudy) -> None:
    """Would catch a layer beyond the backbone, shifted ranges of unequal length, and a row of "Ours" that is missing."""
    for layers in (*study.ranges, *study.copies, *study.starts, *study.ends, study.birth):
        assert parse_layers(layers)[-1] < FAMILIES[family]
    assert study.main in study.ranges
    assert len({len(parse_layers(layers)) for layers in study.ranges}) == 1
    assert parse_layers(study.birth)[0] < min(study.shown) < max(study.shown) < study.num_layers


def test_unknown_pair_has_no_preset() -> None:
    """Catches one backbone's layers handed to another."""
    assert preset("llava15_13b_of_mine", "pope") is None


@pytest.mark.parametrize(
    ("num_layers", "layers"),
    [(24, "8-15"), (28, "9-17"), (32, "10-20"), (36, "12-23"), (4, "1-1"), (2, "0-0"), (1, "0-0")],
)
def test_other_backbones_take_their_middle_third(num_layers: int, layers: str) -> None:
    """Would catch layers beyond a shallow decoder, or a default that is passed off as the paper's."""
    for benchmark in BENCHMARKS:
        found = preset(OTHER, benchmark, num_layers)
        assert found is not None
        assert found[:3] == (layers, 0.5, 0.4)
        assert found.source.startswith("not from the paper: the middle third")
    scan = resolve(OTHER, "pope", num_layers=num_layers, tau_exp=0.7)
    assert scan.layers == parse_layers(layers)
    assert scan.sources["layers"].startswith("not from the paper")
    assert (scan.sources["tau_exp"], scan.sources["tau_drop"]) == ("override", "Policy's default")


def test_depth_changes_no_preset_of_a_table() -> None:
    """Would catch the paper's settings lost to those by depth."""
    assert preset("llava15_7b", "pope", 32) == PRESETS["llava15_7b", "pope"]
    assert layer_study("tiny", 16) is LAYER_STUDIES["tiny"]


@pytest.mark.parametrize("num_layers", [1, 2, 4, 24, 28, 36])
def test_studies_by_depth_lie_within_the_decoder(num_layers: int) -> None:
    """Would catch a layer that a shallow decoder does not have, and a study without its main range."""
    study = layer_study(OTHER, num_layers)
    for layers in (*study.ranges, *study.copies, *study.starts, *study.ends, *study.singles, study.birth):
        assert 0 <= parse_layers(layers)[0] <= parse_layers(layers)[-1] < num_layers
    assert study.main in study.ranges
    assert len({len(parse_layers(layers)) for layers in study.ranges}) == 1
    assert all(parse_layers(study.birth)[0] < layer < num_layers for layer in study.shown)
    assert study.source.startswith("not from the paper")


def test_every_preset_has_a_source_and_thresholds_in_range() -> None:
    """Catches a value without provenance, and percent written for a share."""
    for found in PRESETS.values():
        assert found.source
        assert 0 <= found.tau_exp <= 1
        assert 0 <= found.tau_drop <= 1


def test_what_the_user_gives_wins_and_is_said() -> None:
    """Catches a preset that overwrites an override, a threshold of 0 taken for none, and a lost provenance."""
    assert resolve("llava15_7b", "gqa", layer="3-5", tau_drop=0.0) == (
        (3, 4, 5),
        0.6,
        0.0,
        {"layers": "override", "tau_exp": "paper, App. B", "tau_drop": "override"},
    )


def test_presets_fill_what_is_left_open() -> None:
    """Catches layers left as text."""
    scan = resolve("llava_next_7b", "mme")
    assert scan[:3] == ((12, 13, 14, 15, 16, 17, 18, 19, 20), 0.4, 0.3)
    assert set(scan.sources.values()) == {"paper, App. C"}


def test_backbone_without_presets_needs_layers_only() -> None:
    """Catches another backbone's layers used silently where there is no preset."""
    with pytest.raises(ValueError, match="no layers are preset for pope"):
        resolve("mine", "pope", tau_exp=0.3)
    assert resolve("mine", "pope", layer=0) == (
        (0,),
        0.5,
        0.4,
        {"layers": "override", "tau_exp": "Policy's default", "tau_drop": "Policy's default"},
    )
