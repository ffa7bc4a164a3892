"""Names of run folders: what they are made of, that different commands have different ones, and how long they get."""

import re
import unicodedata

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from blink.runs.names import run_name, same_run


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "default"),
        (["layer=12"], "layer-12"),
        (["layer=12", "epochs=2"], "epochs-2+layer-12"),
        (["layer=[12,13]"], "layer-12_13"),
        (["layer=3", "layer=12"], "layer-12"),
        (["layer=[12, 13]"], "layer-12_13"),
        (["layer=12-18", "bench=mmbench_cn"], "bench-mmbench_cn+layer-12-18"),
        (["interpolate=false"], "interpolate-false"),
        (["interpolate=False"], "interpolate-false"),
        (["bench='pope'"], "bench-pope"),
        (["layer=1", "ckpt=other.ckpt"], "ckpt-other.ckpt+layer-1"),
        (
            ["layer=12", "fresh=true", "logger=none", "logger.project=x", "outputs=/tmp/x", "ckpt=last"],
            "layer-12",
        ),
    ],
)
def test_name_follows_from_overrides(overrides: list[str], name: str) -> None:
    """Catches names that depend on the order of overrides or on keys that do not change the result."""
    assert run_name(overrides) == name


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (["method=vanilla,interp"], "method-vanilla_interp"),
        (["data.root=/home/me/data/POPE", "bench=pope"], "bench-pope+data.root-POPE"),
        (["model.path=llava-hf/llava-1.5-7b-hf"], "model.path-llava-1.5-7b-hf"),
        (["token_sr=outputs/train/layer-3/token_sr"], "token_sr-layer-3"),
        (["figure.runs=[outputs/sweeps/a,outputs/eval/b]"], "figure.runs-a_b"),
        (["question='What colour is it?'"], "question-What_colour_is_it"),
        (["image='/bilder/größe.png'"], "image-größe.png"),
        (["+trainer.flag=x y", "~callbacks"], "trainer.flag-x_y+callbacks-null"),
        (
            [
                *("model.path=/checkpoints/llava-v1.5-13b-of-mine", "data.root=/tmp/some/where", "bench=mme"),
                *("scenes.difficulty=hard", "engine.memory_gb=12", "prompt=lmms_eval", "tau_exp=0.45"),
                *("token_sr=/checkpoints/my_modules", "layer=12-18", "seed=12"),
            ],
            "bench-mme+layer-12-18+model.path-llava-v1.5-13b-of-mine+tau_exp-0.45+6_more",
        ),
    ],
)
def test_a_name_that_cannot_say_all_shows_what_matters(overrides: list[str], shown: str) -> None:
    """Would catch names that are paths and underscores, and long ones that end in the middle of the alphabet's first keys."""
    name = run_name(overrides)
    assert sorted(name[:-9].split("+")) == sorted(shown.split("+"))
    assert re.fullmatch(r"-[0-9a-f]{8}", name[-9:])


def test_a_run_folder_can_be_given_as_an_override() -> None:
    """Catches names with = or , which Hydra does not take unquoted: token_sr=outputs/train/<name>/token_sr."""
    name = run_name(["layer=[12,13]", "optimizer.learning_rate=1e-4", "data.root=/a/b"])
    (override,) = OverridesParser.create().parse_overrides([f"token_sr=outputs/train/{name}/token_sr"])
    assert override.value() == f"outputs/train/{name}/token_sr"


ALIKE = [
    *(["layer=12"], ["layer=[12]"], ["layer='12'"], ["layer=12.0"], ["layer=[[12]]"], ["~layer=12"]),
    *(["layer=1,2"], ["layer=[1,2]"], ["layer='1_2'"], ["layer='1,2'"], ["layer=[1],2"], ["layer=[1,'2']"]),
    *(["flag=true"], ["flag='true'"], ["flag='True'"], ["flag=null"], ["flag='null'"]),
    *(["path=/a/b"], ["path=/c/b"], ["path=b"], ["path=B"], ["path=a_b"], ["path=_a_b"], ["path=a/b"]),
    *(["path=a,b_c"], ["path=a_b,c"], ["path=[a,b,c]"], ["path='a,b,c'"], ["path=a_b_c"]),
    *(["path='x+layer-12'"], ["path=x", "layer=12"], ["path=x-12345678"], ["path=x.old1"], ["path=x"]),
    *(["path='caf\u00e9'"], ["path='cafe\u0301'"], ["path='CAF\u00c9'"], ["path=caf_"], ["path='caf.'"]),
    *([f"path={'a' * 300}"], [f"path={'a' * 301}"], ["path='" + "\u4f60" * 100 + "'"], ["path='\u4f60'"]),
]


def folded(name: str) -> str:
    """A name as file systems compare it that know neither capital letters nor how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def test_names_of_different_overrides_differ() -> None:
    """Catches two runs in one folder, as layer=8,10 and layer=[8,10] were in one of sweeps, here and on other systems' disks."""
    assert len({folded(run_name(overrides)) for overrides in ALIKE}) == len(ALIKE)


VALUES = st.one_of(
    st.integers(-2, 12).map(str),
    st.sampled_from(["true", "null", "0.5", "1e-4", "nan", "[1,2]", "[1,a]", "1,2", "a,b", "{a:1}"]),
    st.text("aAbé_-./+12 你", min_size=1, max_size=60).map(lambda text: f"'{text}'"),
)
OVERRIDES = st.dictionaries(
    st.sampled_from(["a", "a_b", "bench", "model.path", "optimizer.learning_rate", "a.b.c"]),
    VALUES,
    max_size=6,
).map(lambda chosen: [f"{key}={value}" for key, value in chosen.items()])


@settings(max_examples=150, deadline=None)
@given(OVERRIDES, OVERRIDES)
def test_any_names_are_short_and_belong_to_one_command(one: list[str], other: list[str]) -> None:
    """Would catch a value of another kind that makes names long, or two commands the same."""
    names = [run_name(overrides) for overrides in (one, other)]
    for name in names:
        assert "/" not in name
        assert name.strip(". ") == name
        assert len(f"{name}.old12".encode()) < 100
    assert (folded(names[0]) == folded(names[1])) == same_run(one, other)
    assert run_name(one[::-1]) == names[0]
