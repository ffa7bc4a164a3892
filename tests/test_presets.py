"""The paper's settings, read off appendices B and C by hand."""

import pytest

from blink.presets import BENCHMARKS, PRESETS, preset, resolve


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


def test_both_backbones_of_the_paper_have_all_seven_benchmarks() -> None:
    """Catches a benchmark left out of the table."""
    for family in ("llava15_7b", "llava_next_7b"):
        assert {benchmark for f, benchmark in PRESETS if f == family} == set(BENCHMARKS)


def test_unknown_pair_has_no_preset() -> None:
    """Catches one backbone's layers handed to another."""
    assert preset("llava15_13b_of_mine", "pope") is None


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
