"""Checkpoints of the published classes and layout, from disk through the real loading code, answered and trained on."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

import blink
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone, outline
from blink.model.prompts import template_named
from blink.runs.config.groups import CONF_DIR
from tests import models

TEMPLATES = {"llava_next_mistral_7b": "mistral_instruct"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of each kind, written when first asked for."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = models.published(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


def inputs_of(loaded: Backbone, kind: str, sizes: list[tuple[int, int]]) -> Any:
    """A left-padded batch of one picture of each size, with questions of different lengths."""
    template = template_named(TEMPLATES.get(kind, "vicuna_v1"))
    questions = ["Is there a red circle in the image?", "How many?", "What colour is the small star 是?"]
    return loaded.processor(
        images=[models.picture(seed, size) for seed, size in enumerate(sizes)],
        text=[template.prompt(question) for question in questions[: len(sizes)]],
        padding=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize("kind", models.PUBLISHED)
def test_evaluation_by_the_models_own_config(
    kind: str, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a model option that does not compose or load, another template or padding, and a lost provenance."""
    from blink.eval import main

    monkeypatch.chdir(tmp_path)
    overrides = [f"model={kind}", f"model.path={folders(kind)}", "model.dtype=float32", "method=interp"]
    overrides += ["layer=1-2", "tau_exp=0.2", "scenes.images=1", "limit=2", "bench.max_new_tokens=2"]
    monkeypatch.setattr(sys, "argv", ["blink.eval", *overrides, "logger=none"])
    main()
    [path] = (tmp_path / "outputs" / "eval").glob("*/scores.json")
    result = json.loads(path.read_text())
    assert (result["n"], result["expanded"], result["backbone"]) == (2, 1.0, str(folders(kind)))
    assert (result["padded"], result["dtype"], result["revision"]) == ("llava15" in kind, "float32", None)
    assert set(result["events"]) == {"1", "2"}
    preset = blink.evaluation.planning.presets.PRESETS[kind, "pope"]
    assert result["sources"] == {"layers": "override", "tau_exp": "override", "tau_drop": preset.source}


@pytest.mark.parametrize("kind", ["llava15_7b", "llava_next_7b", "llava_next_mistral_7b"])
def test_attach_on_wide_tall_and_square_pictures(kind: str, folders: Callable[[str], Path]) -> None:
    """Would catch spans, grids or regions that are right for one shape of picture or one number of key heads only.

    Visual tokens of LLaVA-NeXT, counted by hand: 576 of the base view, and of the tiles the cells that the picture
    covers with a newline token per row. 700 x 240 goes into 1008 x 336 (72 x 24 cells, of which it covers 70 x 24);
    240 x 700 into 336 x 1008 (24 x 72, 24 x 70); 400 x 400 into 672 x 672 (48 x 48, all).
    """
    loaded = load_backbone(folders(kind))
    inputs = inputs_of(loaded, kind, [(700, 240), (240, 700), (400, 400)])
    visual = (inputs["input_ids"] == loaded.model.config.image_token_id).sum(dim=1).tolist()
    by_hand = [576 + 24 * (70 + 1), 576 + 70 * (24 + 1), 576 + 48 * (48 + 1)]
    assert visual == (by_hand if "next" in kind else [576] * 3)
    assert inputs["input_ids"][:, -1].unique().numel() == 1
    bos = loaded.processor.tokenizer.bos_token_id
    assert (inputs["input_ids"] == bos).sum(dim=1).tolist() == [1, 1, 1]
    asked: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    asked |= {"return_dict_in_generate": True, "output_logits": True}
    with torch.inference_mode():
        stock = loaded.model.generate(**inputs, **asked)
        handle = blink.attach(loaded.model, blink.Policy(layers=[1], tau_exp=0.0, tau_drop=0.0))
        expanded = loaded.model.generate(**inputs, **asked)
    assert expanded.sequences.shape == stock.sequences.shape
    assert ((stock.logits[0] - expanded.logits[0]).abs().amax(dim=1) > 1e-3).all()
    assert [[event.action for event in events] for events in handle.trace] == [["expand"]] * 3
    assert all(0.25 <= events[0].ratio < 0.999 for events in handle.trace)


@pytest.mark.parametrize("kind", ["llava15_7b", "llava_next_mistral_7b"])
def test_engine_answers_as_attach_does(kind: str, folders: Callable[[str], Path]) -> None:
    """Would catch prompts that the engine tokenizes or splits otherwise than the processor, with a true tokenizer."""
    loaded = load_backbone(folders(kind))
    image = models.picture(0, (500, 300))
    template = template_named(TEMPLATES.get(kind, "vicuna_v1"))
    prompts = [template.prompt(question) for question in ("Is there a red star?", "问题: ü\nA. yes")]
    policy = blink.Policy(layers=[1, 2], tau_exp=0.3, tau_drop=0.2)
    [answers] = blink.Engine(loaded.model, loaded.processor).answer(
        image, prompts, [blink.Run(policy)], max_new_tokens=3
    )
    for prompt, answer in zip(prompts, answers, strict=True):
        inputs = loaded.processor(images=[image], text=[prompt], return_tensors="pt")
        handle = blink.attach(loaded.model, policy)
        ids = loaded.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert tuple(ids[0, inputs["input_ids"].shape[1] :].tolist()) == answer.ids
        assert [(e.layer, e.region, e.action) for e in handle.trace[0]] == [
            (e.layer, e.region, e.action) for e in answer.events
        ]
        handle.detach()


def test_mistral_with_a_window_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    """Would catch extensions pushed out of a window, found only after minutes of loading."""
    folder = models.published("llava_next_mistral_7b", tmp_path, layers=2, sliding_window=4096)
    for weights in folder.glob("*.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(ValueError, match="sliding window of 4096"):
        outline(folder)
    with pytest.raises(ValueError, match="sliding window of 4096"):
        load_backbone(folder)


def test_training_by_the_models_own_config(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a bf16 backbone that training cannot use, and modules trained on cropped pictures for padded ones."""
    from blink.train import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for seed in range(3):
        models.picture(seed, (90, 60)).save(tmp_path / "pictures" / f"{seed}.png")
    overrides = ["model=llava15_7b", f"model.path={folders('llava15_7b')}", "layer=1", "data.root=pictures"]
    overrides += ["held_out=1", "workers=0", "logger=none", "trainer.enable_progress_bar=false"]
    monkeypatch.setattr(sys, "argv", ["blink.train", *overrides])
    main()
    [summary] = (tmp_path / "outputs" / "train").glob("*/summary.json")
    assert json.loads(summary.read_text())["train_images"] == 2
    modules = blink.load_token_sr(summary.parent / "token_sr")
    assert modules[1].channels == 64


@pytest.mark.parametrize("kind", [*models.PUBLISHED, "tiny"])
def test_options_of_the_model_group(kind: str) -> None:
    """Would catch an option that lacks a key which another has, or reads another backbone's presets or template."""
    settings = OmegaConf.load(CONF_DIR / "model" / f"{kind}.yaml")
    assert settings.keys() == OmegaConf.load(CONF_DIR / "model" / "tiny.yaml").keys()
    assert settings.family == kind
    assert settings.template == {"tiny": None, **TEMPLATES}.get(kind, "vicuna_v1")
    assert settings.revision is None
    hub = {
        "llava15_7b": "llava-hf/llava-1.5-7b-hf",
        "llava15_13b": "llava-hf/llava-1.5-13b-hf",
        "llava_next_7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava_next_mistral_7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    }
    assert settings.path == hub.get(kind, "tiny")
    assert settings.pad is {"llava15": True, "llava_n": False}.get(kind[:7])


OTHERS = {
    "llava_onevision_05b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "llava_onevision_7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava_interleave_05b": "llava-hf/llava-interleave-qwen-0.5b-hf",
    "internvl3_1b": "OpenGVLab/InternVL3-1B-hf",
    "internvl3_8b": "OpenGVLab/InternVL3-8B-hf",
    "smolvlm2_2b": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "qwen2_vl_2b": "Qwen/Qwen2-VL-2B-Instruct",
    "qwen25_vl_3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen25_vl_7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3_vl_4b": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3_vl_8b": "Qwen/Qwen3-VL-8B-Instruct",
}
"""Option of conf/model -> hub id, of the models that the paper does not have."""


def test_every_option_of_the_model_group_is_known() -> None:
    """Would catch an option that no test looks at."""
    found = {file.stem for file in (CONF_DIR / "model").glob("*.yaml")}
    assert found == {*models.PUBLISHED, *OTHERS, "tiny"}


@pytest.mark.parametrize("kind", OTHERS)
def test_options_of_models_beyond_the_paper(kind: str) -> None:
    """Would catch an option with another's id, with a preset of the paper, or with a prompt that is not the model's own."""
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        composed = hydra.compose("eval", [f"model={kind}"])
        chosen = hydra.compose("eval", [f"model={kind}", "prompt=llava"])
        before = hydra.compose("eval", ["model=llava15_7b"])
    model = composed.model
    assert model.path == OTHERS[kind]
    assert model.keys() - before.model.keys() == {"prompt"}
    assert (model.family, model.template, model.pad, model.revision) == ("other", "chat", None, None)
    assert (composed.prompt, chosen.prompt, before.prompt) == ("lmms_eval", "llava", "llava")
