"""A hub on this machine, and modules as a training run leaves them.

Rooms of this folder are tested in:

    facts.py     test_release.py
    card.py      test_release.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from blink.model.token_sr import TokenSR
from blink.model.token_sr.files import save_token_sr
from blink.training.report import Summary

from .server import TOKEN, Hub, serving

BACKBONE = "someone/llava-small"
LAYERS = (2, 3, 5)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for the real one, with a token that may write and an empty cache."""
    with serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose servers are not imitated here
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What `blink.train` leaves, for three small layers of a backbone of the hub, trained on pictures of this machine."""
    folder = tmp_path / "run"
    modules = write_modules(folder / "token_sr")
    entry = {
        "kl_interpolation": 0.2,
        "kl_token_sr": 0.1,
        "kl_reduction": 0.5,
        "cosine_interpolation": 0.9,
        "cosine_token_sr": 0.95,
        "norm_ratio_interpolation": 1.0,
        "norm_ratio_token_sr": 1.1,
    }
    Summary(
        layers={str(layer): {**entry, "kl_token_sr": layer / 40} for layer in modules},
        mean_kl_token_sr=0.1,
        steps=7,
        train_images=1234,
        held_out_images=64,
        unreadable_images=0,
        backbone=BACKBONE,
        revision="abc",
        token_sr=str(folder / "token_sr"),
        provenance={
            "command": f"python -m blink.train layer=[2,3,5] 'data.root=[{tmp_path}/coco,/home/me/vg/]' seed=0",
            "started_as": f"{tmp_path}/blink-train",
            "versions": {"blink": "0.1.0", "torch": "2.13.0+cpu", "lightning": None},
        },
    ).write(folder)
    return folder


def write_modules(folder: Path, layers: tuple[int, ...] = LAYERS, **more: Any) -> dict[int, TokenSR]:
    """Save random modules of width 8."""
    torch.manual_seed(0)
    modules = {layer: TokenSR(8) for layer in layers}
    settings = {"data": {"source": "local", "root": [f"{folder}/coco", "/home/me/vg/"]}, "seed": 0}
    about = {"backbone": BACKBONE, "revision": "abc", "objective": "kl", "steps": 7, "settings": settings}
    save_token_sr(modules, folder, **{**about, "prompt_prefix": "USER: ", **more})
    return modules
