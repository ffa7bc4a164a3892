"""The backbone and the modules that ship with the project: stock classes, small, and better than guessing."""

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

import blink
from blink.model.backbone import Backbone
from blink.model.fingerprint import TINY
from blink.model.token_sr import cut_region, upsample
from blink.model.token_sr.files import token_sr_config
from blink.model.views import ViewMaker, join_views
from blink.model.visual_states import visual_states
from blink.scenes.draw import SceneImages
from blink.scenes.tiny.accuracy import measure
from blink.training.objective import token_kl


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    """The shipped backbone, by transformers alone."""
    return LlavaForConditionalGeneration.from_pretrained(TINY, dtype=torch.float32)


def test_files_are_small() -> None:
    """Would catch weights saved in float32, or an optimizer state that slipped in."""
    backbone = sum(path.stat().st_size for path in TINY.iterdir() if path.is_file())
    modules = sum(path.stat().st_size for path in (TINY / "token_sr").iterdir())
    assert backbone < 15e6
    assert modules < 15e6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "least"),
    [
        ("word", {"existence": 0.8, "colour": 0.5, "shape": 0.7, "where": 0.4}),
        ("letter", {"existence": 0.75, "shape": 0.6}),
    ],
)
def test_backbone_sees(model: LlavaForConditionalGeneration, form: str, least: dict[str, float]) -> None:
    """Would catch a tokenizer, processor or weights that do not belong together: answers at chance."""
    processor = AutoProcessor.from_pretrained(TINY)
    cells = measure(model, processor, "validation", "ordinary", form, per_kind=25, kinds=least)
    found = {kind: cells[kind].right / cells[kind].asked for kind in least}
    assert all(found[kind] >= least[kind] for kind in least), found


def test_modules_cover_every_layer_and_say_where_they_come_from(model: LlavaForConditionalGeneration) -> None:
    """Would catch a layer without a module, which `method=blink` could not scan."""
    modules = blink.load_token_sr(TINY / "token_sr")
    assert sorted(modules) == list(range(model.config.text_config.num_hidden_layers))
    config = token_sr_config(TINY / "token_sr")
    assert config.backbone == "tiny"
    assert (config.prompt_prefix or "").endswith("USER: ")


def test_modules_beat_interpolation_at_every_layer(model: LlavaForConditionalGeneration) -> None:
    """Would catch modules of another backbone, or of another layer, beside this one."""
    processor = AutoProcessor.from_pretrained(TINY)
    modules = blink.load_token_sr(TINY / "token_sr")
    config = token_sr_config(TINY / "token_sr")
    prefix, temperature = config.prompt_prefix, config.settings["objective"]["temperature"]
    assert prefix is not None
    backbone = Backbone(model)
    make = ViewMaker(processor, prefix, backbone.grid)
    (inputs,) = join_views([make(image) for image in SceneImages("validation", 4)]).inputs
    states = visual_states(backbone, inputs, modules)
    for region in (0, 3):
        coarse = {layer: state[::5] for layer, state in states.items()}
        teacher = {layer: state[1 + region :: 5] for layer, state in states.items()}
        H, W = backbone.grid or (0, 0)
        for layer, module in modules.items():
            plain = upsample(cut_region(coarse[layer], region, 2), (H, W))
            with torch.no_grad():
                refined = module.float()(plain)
            kl, kl_plain = (
                token_kl(tokens.movedim(1, -1), teacher[layer].movedim(1, -1), temperature)
                for tokens in (refined, plain)
            )
            assert kl < kl_plain, f"layer {layer}"
