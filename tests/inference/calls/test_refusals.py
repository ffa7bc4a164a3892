"""What blink.attach must refuse: each case would otherwise be a wrong answer in silence."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import blink
from blink.model.backbone import CACHE, OLD_CACHE
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.comparison import attached, rig

ALWAYS = oracle.Plan((1, 2), tau_exp=0.0, tau_drop=0.0)
IMAGE = models.SPECIAL.index("<image>")
GRID = 36


def inputs_of(*segments: int | list[int]) -> dict[str, torch.Tensor]:
    """A batch of one whose ids are the given words and runs (a number n is n image tokens)."""
    model = rig(grid=6).model
    ids: list[int] = []
    for segment in segments:
        ids += [IMAGE] * segment if isinstance(segment, int) else segment
    images = sum(isinstance(segment, int) for segment in segments)
    pixels = models.batch(model, list(range(images or 1)))["pixel_values"]
    input_ids = torch.tensor([ids])
    tensors = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    return {**tensors, "pixel_values": pixels} if images else tensors


@pytest.mark.parametrize(
    ("segments", "found"),
    [
        (([1, 20, 30],), "(?i)no|none|0"),
        (([1, 20], GRID, [21], GRID, [30]), "(?i)2|two|several"),
        (([1, 20], GRID), "(?i)text|after|end"),
    ],
    ids=["no image", "two images", "image at the end"],
)
@pytest.mark.parametrize("generate", [True, False])
def test_prompts(segments: Any, found: str, generate: bool) -> None:
    """Catches a prompt without exactly one image and text behind it, answered as if it had (3.12)."""
    model = rig(grid=6).model
    inputs = inputs_of(*segments)
    with attached(model, ALWAYS), torch.no_grad():
        call = partial(model.generate, max_new_tokens=2) if generate else model
        with pytest.raises(ValueError, match=found):
            call(**inputs)


def test_one_row_without_its_own_image() -> None:
    """Catches checks that look at the batch's sum: one row holds both images, the other none."""
    model = rig(grid=6).model
    both = inputs_of([1, 20], GRID, [21], GRID, [30])
    none = torch.full_like(both["input_ids"], 25)
    rows = {
        "input_ids": torch.cat([both["input_ids"], none]),
        "attention_mask": torch.ones(2, none.shape[1], dtype=torch.long),
        "pixel_values": both["pixel_values"],
    }
    with attached(model, ALWAYS), torch.no_grad(), pytest.raises(ValueError, match="image"):
        model(**rows)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_cache": False}, "use_cache"),
        ({"cache_implementation": "static"}, "static|cache"),
        ({"cache_implementation": "quantized"}, "quantized|cache"),
        ({"prefill_chunk_size": 8}, "chunk"),
        ({"prompt_lookup_num_tokens": 2}, "assist|lookup"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "attentions"),
        ({"guidance_scale": 2.0}, "guidance"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_ways_to_generate(settings: dict[str, Any], named: str) -> None:
    """Catches a mode of generate that runs on with masks or positions of the stock model (3.13)."""
    model = rig(grid=6, attention="eager").model
    inputs = models.batch(model, [1])
    with attached(model, ALWAYS), pytest.raises(ValueError, match=named):
        model.generate(**inputs, max_new_tokens=3, do_sample=False, **settings)


def test_assisted_decoding() -> None:
    """Catches a draft model whose tokens are checked on caches that cannot be cropped."""
    model = rig(grid=6).model
    inputs = models.batch(model, [1])
    draft = copy.deepcopy(rig(grid=6).twin)
    with attached(model, ALWAYS), pytest.raises(ValueError, match="assist"):
        model.generate(**inputs, max_new_tokens=3, do_sample=False, assistant_model=draft)


@pytest.mark.parametrize("generate", [True, False])
def test_filled_cache_at_the_prompt(generate: bool) -> None:
    """Catches a prompt that is put behind tokens of which Blink knows no spans."""
    model, twin = rig(grid=6)
    inputs = models.batch(model, [1])
    cache = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        twin(**inputs, **{CACHE: cache})
    twice = {**inputs}
    for name in ("input_ids", "attention_mask"):
        twice[name] = torch.cat([inputs[name], inputs[name]], dim=1)
    longer = {**inputs, "attention_mask": twice["attention_mask"]}
    with attached(model, ALWAYS), torch.no_grad():
        call = partial(model.generate, **twice, max_new_tokens=2) if generate else partial(model, **longer)
        with pytest.raises(ValueError, match=r"holds \d+ tokens"):
            call(**{CACHE: cache})


def test_empty_cache_at_the_prompt() -> None:
    """Catches a caller's cache that stays empty, and a next step that looks for an image; `generate` replaces it."""
    model = rig(grid=6).model
    inputs = models.batch(model, [1])
    with attached(model, ALWAYS), torch.no_grad():
        with pytest.raises(ValueError, match=f"leave {CACHE} out and use the returned one"):
            model(**inputs, **{CACHE: DynamicCache()})
        settings: Any = {"max_new_tokens": 2, "do_sample": False}
        plain = model.generate(**inputs, **settings)
        for name in (CACHE, OLD_CACHE):
            assert torch.equal(model.generate(**inputs, **settings, **{name: DynamicCache()}), plain)


def test_stock_cache_while_decoding() -> None:
    """Catches a step that continues from a cache which the stock model filled before attaching."""
    model = rig(grid=6).model
    inputs = models.batch(model, [1])
    with torch.no_grad():
        cache = model(**inputs, use_cache=True)[CACHE]
        mask = torch.ones(1, inputs["input_ids"].shape[1] + 1, dtype=torch.long)
        with attached(model, ALWAYS), pytest.raises(ValueError, match=CACHE):
            model(input_ids=torch.tensor([[25]]), attention_mask=mask, **{CACHE: cache})


def test_position_ids() -> None:
    """Catches position ids that are dropped in silence; those that the mask gives are accepted."""
    model = rig(grid=6).model
    inputs = models.batch(model, [1, 2])
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with attached(model, ALWAYS), torch.no_grad():
        plain = model(**inputs).logits
        assert torch.equal(model(**inputs, position_ids=positions).logits, plain)
        with pytest.raises(ValueError, match="position_ids"):
            model(**inputs, position_ids=positions + 1)


def test_output_attentions() -> None:
    """Catches maps that are empty or those of another sequence."""
    model = rig(grid=6, attention="eager").model
    inputs = models.batch(model, [1])
    with attached(model, ALWAYS), torch.no_grad(), pytest.raises(ValueError, match="attentions"):
        model(**inputs, output_attentions=True)


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_sliding_window(family: str) -> None:
    """Catches layers whose window cuts through an expanded sequence; Mistral without one is served."""
    model = getattr(models, family)(grid=6, text="mistral", sliding_window=16)
    with pytest.raises(ValueError, match=r"(?i)sliding"):
        blink.attach(model, comparison.policy(ALWAYS))
    with attached(rig(family, grid=6, text="mistral").model, ALWAYS):
        pass


@pytest.mark.parametrize("refuse", [lambda m: blink.attach(m, blink.Policy([1])), blink.Engine])
def test_offloaded_weights(refuse: Any) -> None:
    """Catches weights that are not there, with which all computes and nothing is right."""
    model = models.llava(grid=6, layers=2).to("meta")
    with pytest.raises(ValueError, match=r"on the meta device.*cpu_offload.*Blink needs them in memory"):
        refuse(model)
    model = models.llava(grid=6, layers=2)
    model.model.vision_tower.post_layernorm.to("meta")
    with pytest.raises(ValueError, match="2 weights of the model are on the meta device"):
        refuse(model)


def test_weights_offloaded_once_attached() -> None:
    """Catches modules that follow a model to where nothing is computed."""
    model = models.llava(grid=6, layers=2)
    inputs = models.batch(model, [1])
    blink.attach(model, blink.Policy([1], 0, 0), {1: blink.TokenSR(48).requires_grad_(False)})
    model.model.language_model.to("meta")
    with pytest.raises((ValueError, RuntimeError, NotImplementedError), match="meta"):
        model(**inputs)


def test_right_padding() -> None:
    """Catches answers behind padding, and an error about position_ids that nobody gave."""
    model = rig(grid=6).model
    inputs = models.batch(model, [1, 2])
    right = {
        name: tensor.flip(1) if name in ("input_ids", "attention_mask") else tensor
        for name, tensor in inputs.items()
    }
    row = int((right["attention_mask"][:, -1] == 0).nonzero()[0])
    with (
        attached(model, ALWAYS),
        pytest.raises(ValueError, match=rf"row {row} of .*right.*padding_side = 'left'"),
    ):
        model.generate(**right, max_new_tokens=2, do_sample=False)
    # `generate` makes a mask of padding tokens; one token of an answer meets no later check
    del right["attention_mask"]
    padding = (inputs["attention_mask"] == 0).sum(1).tolist()
    right["input_ids"] = torch.stack(
        [ids.roll(-count) for ids, count in zip(inputs["input_ids"], padding, strict=True)]
    )
    for beams in (1, 2):
        with (
            attached(model, ALWAYS),
            pytest.raises(ValueError, match=rf"row {row} of .*padding_side = 'left'"),
        ):
            model.generate(**right, max_new_tokens=1, num_beams=beams)


@pytest.mark.parametrize(
    ("token_sr", "message"),
    [
        (lambda x: x, "of type function; expected None, a folder, a hub id, or a mapping"),
        ([blink.TokenSR(48)], "of type list; expected"),
        (blink.TokenSR(48), "of type TokenSR; expected"),
        (torch.nn.ModuleDict({"1": blink.TokenSR(48)}), r"of type ModuleDict; expected.*\{12: module\}"),
        ({1: None}, "layer 1 is None; expected a torch.nn.Module"),
        ({1: lambda x: x}, "layer 1 is <function.*expected a torch.nn.Module"),
        ({"1": blink.TokenSR(48)}, r"names layers \['1'\]"),
        ({1: blink.TokenSR(48).to("meta")}, "module of layer 1 are on the meta device"),
    ],
)
def test_what_is_no_token_sr(token_sr: Any, message: str) -> None:
    """Catches an error in the middle of a prompt, or none, where the modules were never any."""
    model, policy = rig(grid=6).model, blink.Policy([1], 0, 0)
    with pytest.raises(ValueError, match=message):
        blink.attach(model, policy, token_sr)
    engine, run = blink.Engine(model, models.processor(model)), blink.Run(policy, token_sr)
    image, prompt = models.picture(1), models.prompt(1)
    with pytest.raises(ValueError, match=message):
        engine.answer(image, [prompt], [run], max_new_tokens=1)
    with pytest.raises(ValueError, match=message):
        engine.answer_alone(image, prompt, run, max_new_tokens=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"runs": [blink.Policy([1])]},
            r"runs\[0\]=Policy.*expected a blink\.Run, which is blink\.Run\(policy",
        ),
        ({"runs": blink.Run()}, "runs=Run.*expected a list of blink.Run"),
        ({"runs": [blink.Run(), None]}, r"runs\[1\]=None"),
        ({"runs": [blink.Run("12-18")]}, "policy='12-18'"),  # type: ignore[arg-type]
        ({"prompts": models.prompt(1)}, "prompts='.*expected a list of texts"),
        ({"prompts": [b"x"]}, "prompts=.*expected a list of texts"),
        ({"sample_keys": "a"}, "sample_keys='a': expected a list of texts"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5"),
        ({"runs": []}, "0 runs: expected at least 1"),
        ({"prompts": []}, "0 prompts"),
    ],
)
def test_what_the_engine_cannot_be_asked(asked: dict[str, Any], message: str) -> None:
    """Catches a text taken for a list of letters, a policy for a run, and errors out of the middle of the code."""
    model = rig(grid=6).model
    engine = blink.Engine(model, models.processor(model))
    given: dict[str, Any] = {
        "prompts": [models.prompt(1)],
        "runs": [blink.Run()],
        "max_new_tokens": 1,
        **asked,
    }
    with pytest.raises(ValueError, match=message):
        engine.answer(models.picture(1), **given)


@pytest.mark.parametrize(
    ("kind", "missing"), [("phi3", "no q_proj, no k_proj"), ("olmo2", "no input_layernorm")]
)
def test_similarity_needs_projections(kind: str, missing: str) -> None:
    """Catches an AttributeError at the first scan; saliency by attention works for all."""
    model = models.llava(grid=6, layers=2, text=kind)
    policy = blink.Policy([1], saliency="similarity")
    with pytest.raises(ValueError, match=rf"saliency='similarity' needs .*layer 1 .*'{kind}'.*{missing}"):
        blink.attach(model, policy)
    blink.attach(model, blink.Policy([1])).detach()


def test_settings_that_do_not_fit_the_model() -> None:
    """Catches a layer, a patch count or a set of modules that fails only later, or never."""
    model = rig(grid=6).model
    with pytest.raises(ValueError, match=r"(?i)layer"):
        blink.attach(model, blink.Policy(layers=[5]))
    with pytest.raises(ValueError, match=r"patches=7 does not fit"):
        blink.attach(model, blink.Policy(layers=[1], patches=7))
    with pytest.raises(ValueError, match=r"(?i)layer"):
        blink.attach(model, blink.Policy(layers=[1, 2]), token_sr={1: blink.TokenSR(48)})
    with pytest.raises(ValueError, match="32"):
        blink.attach(model, blink.Policy(layers=[1]), token_sr={1: blink.TokenSR(32)})
    for policy in ("12-18", None, [1]):
        with pytest.raises(ValueError, match=r"policy=.*expected a blink\.Policy"):
            blink.attach(model, policy)  # type: ignore[arg-type]
    with attached(model, ALWAYS), pytest.raises(ValueError, match=r"(?i)attached"):
        blink.attach(model, comparison.policy(ALWAYS))
