"""Our attention functions: what they hand over, and that nothing else of a model changes."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

import blink
from blink.inference.attention import LeaveLayer, hooks_enabled
from blink.inference.cache import OneCall
from blink.inference.saliency import attention_row
from blink.model.backbone import HOOK, Backbone
from tests import models
from tests.inference.oracle.comparison import modules_of

EVERY_LAYER = [0, 1, 2, 3]
NEVER = blink.Policy(layers=EVERY_LAYER, tau_exp=1, tau_drop=0)
ALWAYS = blink.Policy(layers=[1, 3], tau_exp=0, tau_drop=0)


def implementations(model: Any) -> set[str]:
    """What the text model's configs name as their attention implementation."""
    return {config._attn_implementation for config in Backbone(model).attention_configs}


@torch.no_grad()
def logits_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of a plain forward."""
    logits: Tensor = model(**inputs).logits
    return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [[8], [5, 11]])
def test_a_policy_that_never_fires_changes_no_bit(
    attention: str, dtype: torch.dtype, rows: list[int]
) -> None:
    """Catches a hook that disturbs the layer's own attention, in either implementation, padded or not."""
    model = models.llava(grid=6, layers=4, kv_heads=2, attention=attention, dtype=dtype)
    inputs = models.batch(model, rows)
    mask_BS = inputs["attention_mask"]
    inputs["position_ids"] = (mask_BS.cumsum(dim=1) - 1).clamp(
        min=0
    )  # as `generate` gives them to a padded batch
    stock = logits_of(model, inputs)
    handle = blink.attach(model, NEVER)
    assert torch.equal(logits_of(model, inputs), stock)
    assert [len(events) for events in handle.trace] == [4] * len(rows)


@pytest.mark.parametrize("kind", models.TEXT_MODELS)
def test_every_text_model_off_is_off(kind: str) -> None:
    """Catches what a text model does outside its layers and we do not: Granite scales embeddings, for instance."""
    model = models.llava(grid=6, layers=4, kv_heads=2, text=kind)
    inputs = models.batch(model, [5, 11])
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        stock = model(**inputs, output_hidden_states=True)
        handle = blink.attach(model, NEVER)
        ours = model(**inputs, output_hidden_states=True)
    assert torch.equal(ours.logits, stock.logits)
    assert all(torch.equal(*pair) for pair in zip(ours.hidden_states, stock.hidden_states, strict=True))
    assert {event.action for events in handle.trace for event in events} == {"keep"}


@pytest.mark.parametrize("kind", models.TEXT_MODELS)
def test_every_text_model_in_a_batch_and_alone(kind: str) -> None:
    """Catches rows that answer otherwise beside others, where some expand and some do not."""
    model = models.llava(grid=6, layers=4, kv_heads=2, text=kind)
    settings: Any = {"max_new_tokens": 4, "do_sample": False}
    seeds = list(range(6))
    batch = models.batch(model, seeds)
    handle = blink.attach(model, NEVER)
    logits_of(model, batch)
    ratios = sorted(event.ratio for events in handle.trace for event in events)
    handle.detach()
    middle = (ratios[11] + ratios[12]) / 2
    handle = blink.attach(model, blink.Policy(EVERY_LAYER, middle, 0.9 * middle), modules_of(model))
    ids = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    together = [[(event.action, event.region) for event in events] for events in handle.trace]
    assert len({action for events in together for action, _ in events}) > 1
    for row, seed in enumerate(seeds):
        inputs = models.batch(model, [seed])
        alone = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :].tolist()
        assert ids[row, : len(alone)].tolist() == alone
        assert [(event.action, event.region) for event in handle.trace[0]] == together[row]


@pytest.mark.parametrize("kind", models.TEXT_MODELS)
def test_the_row_is_that_of_the_eager_map(kind: str) -> None:
    """Catches a text model whose layer hands over something else than what its attention multiplies."""
    config = AutoConfig.for_model(
        kind,
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        pad_token_id=0,
        **models.TEXT_MODELS[kind],
    )
    torch.manual_seed(0)
    decoder = AutoModel.from_config(config, attn_implementation="eager").eval()
    found: list[tuple[Tensor, Tensor]] = []

    def hook(query: Tensor, keys: Tensor, values: Tensor, scaling: float, stock: Any, /) -> Any:
        output, weights = stock()
        found.append((attention_row(query[:, :, -1], [keys], None, scaling), weights[:, :, -1].mean(dim=1)))
        return output, weights

    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        stock = decoder(ids, use_cache=False).last_hidden_state
        with hooks_enabled(_OnlyText(decoder)):  # type: ignore[arg-type]  # all that is asked for
            hooked = decoder(ids, use_cache=False, **{HOOK: hook}).last_hidden_state
    assert torch.equal(hooked, stock)
    assert len(found) == 2
    for row, eager in found:
        torch.testing.assert_close(row, eager, atol=1e-6, rtol=1e-5)


def test_attention_that_is_more_than_a_softmax_is_refused(model: Any) -> None:
    """Catches layers that hand their function something else, which a scan knows nothing of: caps, sinks, biases."""
    attention = model.model.language_model.layers[1].self_attn
    stock = attention.forward
    attention.forward = lambda *args, **kwargs: stock(*args, **kwargs, softcap=30.0)
    blink.attach(model, NEVER)
    with pytest.raises(ValueError, match="LlamaAttention attends with softcap; Blink needs a plain softmax"):
        logits_of(model, models.batch(model, [1]))


class _Broken(torch.nn.Module):
    """A module that fails, as one out of memory does."""

    def forward(self, tokens_BdHW: Tensor) -> Tensor:
        raise RuntimeError("broken module")


class _OnlyText:
    """A text model where a backbone is asked for its attention configs."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    attention_configs = Backbone.attention_configs


def test_the_config_names_its_own_implementation_outside(model: Any) -> None:
    """Catches a name of ours that stays behind: after a pass, after an error in it, and with one loop inside another."""
    handle, inputs = blink.attach(model, ALWAYS), models.batch(model, [8])
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert implementations(model) == {"sdpa"}
    handle.detach()

    handle = blink.attach(model, ALWAYS, token_sr={1: _Broken(), 3: _Broken()})
    with pytest.raises(RuntimeError, match="broken module"):
        logits_of(model, inputs)
    assert implementations(model) == {"sdpa"}
    backbone = Backbone(model)
    with hooks_enabled(backbone):
        with hooks_enabled(backbone):
            assert implementations(model) == {"blink_sdpa"}
        assert implementations(model) == {"blink_sdpa"}
    assert implementations(model) == {"sdpa"}


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads that take turns a thousand times as often as Python's do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
def test_threads_do_not_see_each_other(model: Any) -> None:
    """Catches a switch that one loop takes back under another: an attached model, and a stock one that shares its decoder."""
    sharing = models.llava(grid=6, layers=4)
    sharing.model.language_model = model.model.language_model
    inputs = [models.batch(model, [8]), models.batch(model, [9, 5])]
    stock = [logits_of(sharing, each) for each in inputs]
    engine, prompt, picture = (
        blink.Engine(model, models.processor(model)),
        models.prompt(3),
        models.picture(3),
    )
    policy = blink.Policy(layers=[1, 2], tau_exp=0.3, tau_drop=0.2)
    runs = [blink.Run(), blink.Run(policy)]
    answers = engine.answer(picture, [prompt], runs, max_new_tokens=3)
    handle = blink.attach(model.model and _twin(model), ALWAYS)
    expected = [logits_of(handle.model, each) for each in inputs]
    failures: list[str] = []

    def repeat(name: str, work: Any, wanted: Any) -> None:
        for _ in range(8):
            if not all(torch.equal(*pair) for pair in zip(work(), wanted, strict=True)):
                failures.append(name)

    def ask() -> None:
        for _ in range(4):
            if engine.answer(picture, [prompt], runs, max_new_tokens=3) != answers:
                failures.append("engine")

    threads = [
        threading.Thread(
            target=repeat, args=("attached", lambda: [logits_of(handle.model, i) for i in inputs], expected)
        ),
        threading.Thread(target=ask),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert implementations(model) == {"sdpa"}
    handle.detach()
    assert all(
        torch.equal(logits_of(sharing, each), wanted) for each, wanted in zip(inputs, stock, strict=True)
    )


def _twin(model: Any) -> Any:
    """A model object of its own whose decoder layers are those of another, so that only one of them is attached."""
    twin = models.llava(grid=6, layers=4)
    twin.model.language_model.layers = model.model.language_model.layers
    twin.model.language_model.config = model.model.language_model.config
    return twin


def test_a_hook_may_leave_the_layer(model: Any) -> None:
    """Catches an exit that loses the keys and values, which the trunk takes from its last layer."""
    backbone = Backbone(model)
    hidden = torch.randn(1, 5, backbone.hidden_size)
    frame, call, left = backbone.frame(hidden, None, torch.arange(5)[None, None]), OneCall(), OneCall()
    with torch.no_grad(), hooks_enabled(backbone):
        backbone.run_layer(0, hidden, frame, call)
        with pytest.raises(LeaveLayer):
            backbone.run_layer(0, hidden, frame, left, _leave)
    assert all(torch.equal(*pair) for pair in zip(left.new, call.new, strict=True))


def _leave(*_: Any) -> Any:
    raise LeaveLayer


@pytest.mark.parametrize("policy", [NEVER, ALWAYS])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(model: Any, policy: blink.Policy, reentrant: bool) -> None:
    """Catches a replay that scans anew or loses an extension, and the crash where a cache is asked for by default."""
    inputs, grads = models.batch(model, [8]), []
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    blink.attach(model, policy)
    model.train()
    if reentrant:
        model.enable_input_require_grads()
    for checkpointing in (False, True):
        if checkpointing:
            models.checkpoint_activations(model, reentrant)
        model.zero_grad()
        outputs = model(**inputs, labels=labels)
        outputs.loss.backward()
        grads.append(
            (outputs.loss.detach(), model.model.language_model.layers[0].mlp.up_proj.weight.grad.clone())
        )
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-5)
