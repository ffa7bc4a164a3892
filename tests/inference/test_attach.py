"""attach and its handle: what stays of them, what they record, and what travels with the cache."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blink
from blink.model.backbone import CACHE
from tests import models
from tests.inference.handles import ALWAYS, NEVER, logits_of


class Double(nn.Module):
    """A module of a caller's own."""

    def forward(self, x_BdHW: Tensor) -> Tensor:
        """Twice the input."""
        return 2 * x_BdHW


def attributes(model: Any) -> list[set[str]]:
    """Names of the attributes of the objects that attach touches."""
    return [set(vars(module)) for module in (model, model.model, model.model.language_model)]


def test_import_is_quick() -> None:
    """Catches `import blink` loading torch and transformers before anything is used."""
    code = "import sys, blink; assert not {'torch', 'transformers'} & set(sys.modules); blink.Policy([1])"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names() -> None:
    """Catches a public name that a file of the same name hides once it is loaded."""
    for name in blink.__all__:
        assert not isinstance(getattr(blink, name), type(sys)), name
    assert callable(blink.attach)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = blink.nonsense


def test_trace(model: Any) -> None:
    """Catches a trace that repeats beams, can be written to, or outlives its prompt."""
    inputs = models.batch(model, [1, 2])
    handle = blink.attach(model, ALWAYS)
    assert handle.trace == []
    model.generate(**inputs, max_new_tokens=3, do_sample=False, num_beams=3, num_return_sequences=2)
    first = handle.trace
    assert [[(event.layer, event.action) for event in row] for row in first] == [
        [(1, "expand"), (3, "expand")]
    ] * 2
    assert all(0.25 <= event.ratio <= 1 and 0 <= event.region < 4 for row in first for event in row)
    first[0].clear()
    assert len(handle.trace[0]) == 2
    logits_of(model, models.batch(model, [3]))
    assert len(handle.trace) == 1
    with handle.disabled():
        assert len(handle.trace) == 1
        logits_of(model, inputs)
    assert handle.trace == []


def test_repr(model: Any) -> None:
    """Catches `<blink.inference.attach.Handle object at 0x...>` in a notebook, and one that tells of an earlier prompt."""
    handle = blink.attach(
        model, blink.Policy([1, 3], tau_exp=0, tau_drop=0, patches=3), {1: Double(), 3: Double()}
    )
    told = (
        "LlavaForConditionalGeneration, Policy(layers=[1, 3], tau_exp=0, tau_drop=0, patches=3) with TokenSR"
    )
    assert repr(handle) == f"<blink.Handle: attached, {told}, last prompt: none>"
    logits_of(model, models.batch(model, [1, 2]))
    assert repr(handle) == f"<blink.Handle: attached, {told}, last prompt: 2 rows with 4 expand>"
    with handle.disabled():
        logits_of(model, models.batch(model, [1]))
        assert repr(handle) == f"<blink.Handle: disabled, {told}, last prompt: none>"
    handle.detach()
    assert repr(handle).startswith("<blink.Handle: detached, ")
    never = blink.attach(model, NEVER)
    logits_of(model, models.batch(model, [1]))
    assert repr(never).endswith("tau_exp=1, tau_drop=0) with interpolation, last prompt: 1 row with 4 keep>")
    never.detach()
    assert "with encoded crops" in repr(blink.attach(model, blink.Policy([1], source="encode")))


def test_attach_twice_is_refused(model: Any) -> None:
    """Catches a second handle that shadows the first and can only be detached in order."""
    handle = blink.attach(model, ALWAYS)
    with pytest.raises(ValueError, match=r"attached.*detach"):
        blink.attach(model, NEVER)
    handle.detach()
    blink.attach(model, NEVER).detach()


@pytest.mark.parametrize(
    ("policy", "token_sr", "message"),
    [
        (blink.Policy([4]), None, r"\[4\].*0 to 3"),
        (blink.Policy([1], patches=7), None, "patches=7.*6 x 6"),
        (blink.Policy([1, 2]), {1: nn.Identity()}, r"\[2\]"),
        (blink.Policy([1]), {1: blink.TokenSR(32)}, "32.*48"),
        (blink.Policy([1]), "no/such/folder", "no/such/folder"),
    ],
)
def test_a_refused_attach_changes_nothing(
    model: Any, policy: blink.Policy, token_sr: Any, message: str
) -> None:
    """Catches checks that come after the surgery."""
    before = attributes(model)
    with pytest.raises(ValueError, match=message):
        blink.attach(model, policy, token_sr)
    assert attributes(model) == before


def test_detach_restores_an_older_shadow(model: Any) -> None:
    """Catches a detach that removes what another library had put on the object."""
    calls = []
    stock = model.generate

    def logged(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return stock(*args, **kwargs)

    model.generate = logged
    handle = blink.attach(model, ALWAYS)
    inputs = models.batch(model, [1])
    model.generate(**inputs, max_new_tokens=1)
    assert len(calls) == 1
    assert len(handle.trace) == 1
    handle.detach()
    handle.detach()
    assert model.generate is logged


def test_a_copy_of_an_attached_model_runs_its_own_weights(model: Any) -> None:
    """Catches a deep copy whose forward still is the original's."""
    inputs = models.batch(model, [1])
    handle = blink.attach(model, ALWAYS)
    before = logits_of(model, inputs)
    other = copy.deepcopy(model)
    for weight in other.lm_head.parameters():
        weight.data.zero_()
    for layer in other.model.language_model.layers:
        layer.mlp.down_proj.weight.data.zero_()
    events = handle.trace
    assert not logits_of(other, inputs).any()
    assert handle.trace == events
    assert torch.equal(logits_of(model, inputs), before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda handle: pickle.loads(pickle.dumps(handle))])
def test_a_copy_of_a_handle_is_detached(model: Any, copied: Any) -> None:
    """Catches a copy that says it is attached, to a model that is stock, and cannot be detached."""
    handle = blink.attach(model, ALWAYS)
    other = copied(handle)
    assert "detached" in repr(other)
    other.detach()
    inputs = models.batch(model, [1])
    logits_of(other.model, inputs)
    assert not other.trace
    logits_of(model, inputs)
    assert handle.trace[0]


def test_a_handle_is_not_changed(model: Any) -> None:
    """Catches a policy that is assigned, checked by nothing, and followed in part."""
    handle = blink.attach(model, ALWAYS)
    for name, value in (("policy", NEVER), ("model", None)):
        with pytest.raises(AttributeError, match=name):
            setattr(handle, name, value)
    assert (handle.policy, handle.model) == (ALWAYS, model)


def test_a_module_that_learns_is_not_copied_in_silence(model: Any) -> None:
    """Catches a caller's module that gets no gradient since a copy of another dtype does the work."""
    model = model.bfloat16().requires_grad_(False)
    module, inputs = blink.TokenSR(48), models.batch(model, [1])
    handle = blink.attach(model, blink.Policy([1], 0, 0), {1: module})
    with pytest.warns(UserWarning, match="require grad is not torch.bfloat16"):
        model(**inputs)
    model(**inputs)  # copied once, and said once
    handle.detach()
    blink.attach(model, blink.Policy([1], 0, 0), {1: module.bfloat16()})
    model(**inputs).logits.float().sum().backward()
    assert all(weight.grad is not None for weight in module.parameters())


def test_blocks_within_blocks(model: Any) -> None:
    """Catches an inner disabled() that switches Blink on again for the rest of the outer."""
    inputs = models.batch(model, [1])
    handle = blink.attach(model, ALWAYS)
    with handle.disabled():
        with handle.disabled():
            pass
        logits_of(model, inputs)
        assert handle.trace == []
    logits_of(model, inputs)
    assert len(handle.trace) == 1


def test_modules_follow_the_model(model: Any) -> None:
    """Catches float32 modules in a bfloat16 model, and a caller's modules cast behind their back."""
    module = blink.TokenSR(48).requires_grad_(False)
    handle = blink.attach(model, ALWAYS, {1: module, 3: module, 9: module})
    model.to(torch.bfloat16)
    inputs = models.batch(model, [1])
    assert logits_of(model, inputs).dtype == torch.bfloat16
    assert next(module.parameters()).dtype == torch.float32
    handle.detach()
    assert logits_of(model, inputs).dtype == torch.bfloat16


def test_modules_from_a_folder(model: Any, tmp_path: Path) -> None:
    """Catches a folder that is read as interpolation, or a scanned layer that it lacks."""
    torch.manual_seed(0)
    modules = {layer: blink.TokenSR(48) for layer in (1, 3)}
    blink.save_token_sr(modules, tmp_path, backbone="random")
    inputs = models.batch(model, [1])
    outcomes = []
    for token_sr in (modules, tmp_path, str(tmp_path), None):
        handle = blink.attach(model, ALWAYS, token_sr)
        outcomes.append(logits_of(model, inputs))
        handle.detach()
    assert torch.equal(outcomes[0], outcomes[1])
    assert torch.equal(outcomes[0], outcomes[2])
    assert not torch.allclose(outcomes[0], outcomes[3], atol=1e-3)
    with pytest.raises(ValueError, match=r"layers \[2\]"):
        blink.attach(model, blink.Policy([1, 2]), tmp_path)
    with pytest.raises(ValueError, match=r"48.*32"):
        blink.attach(models.llava(grid=6, layers=4, hidden=32), ALWAYS, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask"),
        ({"position_ids": torch.tensor([[3]])}, "position_ids"),
        ({"pixel_values": torch.zeros(1, 3, 24, 24)}, "image"),
        ({"input_ids": torch.tensor([[25], [26]])}, "2 rows"),
        ({"output_attentions": True}, "output_attentions"),
        ({"output_hidden_states": [1]}, "output_hidden_states"),
    ],
)
def test_steps_that_do_not_follow_are_refused(model: Any, change: dict[str, Any], message: str) -> None:
    """Catches a step whose arguments contradict what the cache holds, answered as if they did not."""
    blink.attach(model, ALWAYS)
    with torch.no_grad():
        cache = model(**models.batch(model, [1]), use_cache=True)[CACHE]
        with pytest.raises(ValueError, match=message):
            model(**{"input_ids": torch.tensor([[25]]), CACHE: cache, **change})


def test_embeddings_alone_are_refused(model: Any) -> None:
    """Catches a prompt whose image cannot be found, run as if it had none."""
    inputs = models.batch(model, [1])
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    blink.attach(model, ALWAYS)
    with pytest.raises(ValueError, match="input_ids"), torch.no_grad():
        model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="inputs_embeds"):
        model.generate(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])


def test_settings_of_generate_are_seen_wherever_they_are(model: Any) -> None:
    """Catches a refusal that looks at keywords only: the model's and the caller's config count, too."""
    inputs = models.batch(model, [1])
    blink.attach(model, ALWAYS)
    config = copy.deepcopy(model.generation_config)
    config.use_cache = False
    with pytest.raises(ValueError, match="use_cache"):
        model.generate(inputs["input_ids"], config, pixel_values=inputs["pixel_values"])
    model.generation_config.prefill_chunk_size = 4
    with pytest.raises(ValueError, match="chunk"):
        model.generate(**inputs)


def test_naming_the_dynamic_cache_is_no_mistake(model: Any) -> None:
    """Catches a cache of ours beside a cache by name, which transformers refuses in words of its own."""
    inputs = models.batch(model, [1, 2])
    blink.attach(model, ALWAYS)
    settings = {"max_new_tokens": 3, "do_sample": False}
    expected = model.generate(**inputs, **settings)
    assert torch.equal(model.generate(**inputs, **settings, cache_implementation="dynamic"), expected)
    config = copy.deepcopy(model.generation_config)
    config.cache_implementation = "dynamic"
    assert torch.equal(model.generate(**inputs, **settings, generation_config=config), expected)
