"""Attached models that are compiled, copied, pickled, or wrapped by another library's hooks."""

import copy
import functools
import inspect
import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import blink
from tests import models

ALWAYS = blink.Policy(layers=[1, 2], tau_exp=0, tau_drop=0)
AT_1 = blink.Policy(layers=[1], tau_exp=0, tau_drop=0)
SETTINGS: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}


@pytest.fixture
def model() -> Any:
    """A small LLaVA: 4 x 4 grid, 3 layers, width 48."""
    return models.llava(grid=4, layers=3)


@torch.no_grad()
def answers(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of a plain forward, and generated ids."""
    return model(**inputs).logits, model.generate(**inputs, **SETTINGS)


def compiled(model: Any) -> Any:
    """As a wrapper."""
    return torch.compile(model, backend="eager")


def compiled_in_place(model: Any) -> Any:
    """As `nn.Module.compile` does it."""
    model.compile(backend="eager")
    return model


def compiled_forward(model: Any) -> Any:
    """The forward method alone."""
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compiled_layers(model: Any) -> Any:
    """Layer by layer, as is usual where compiling a whole model takes long."""
    for layer in model.model.language_model.layers:
        layer.compile(backend="eager")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("how", [compiled, compiled_in_place, compiled_forward, compiled_layers])
@torch.no_grad()
def test_compiled(how: Callable[[Any], Any]) -> None:
    """Catches endless recursion where what is compiled is attached to."""
    torch.compiler.reset()
    model = models.llava(grid=4, layers=2)
    inputs = models.batch(model, [1])
    labels = inputs["input_ids"].clone()
    labels[:, :-2] = -100
    handle = blink.attach(model, AT_1)
    want, ids = model(**inputs, labels=labels), model.generate(**inputs, **SETTINGS)
    runs = how(model)
    found = runs(**inputs, labels=labels)
    torch.testing.assert_close((found.loss, found.logits), (want.loss, want.logits), rtol=0, atol=1e-5)
    assert torch.equal(runs.generate(**inputs, **SETTINGS), ids)
    assert len(handle.trace) == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [compiled, compiled_forward])
@torch.no_grad()
def test_compiled_before(how: Callable[[Any], Any]) -> None:
    """Catches code compiled from the stock model that goes on as if nothing were attached, or detached."""
    torch.compiler.reset()
    model = models.llava(grid=4, layers=2)
    inputs = models.batch(model, [1])
    stock = model(**inputs).logits
    handle = blink.attach(model, AT_1)
    want = model(**inputs).logits
    handle.detach()
    runs = how(model)
    torch.testing.assert_close(runs(**inputs).logits, stock, rtol=0, atol=1e-5)
    handle = blink.attach(runs, AT_1)
    torch.testing.assert_close(runs(**inputs).logits, want, rtol=0, atol=1e-5)
    assert len(handle.trace) == 1
    handle.detach()
    torch.testing.assert_close(runs(**inputs).logits, stock, rtol=0, atol=1e-5)
    assert not torch.allclose(stock, want, atol=1e-3)


def pickled(model: Any) -> Any:
    """What `torch.save` and `torch.load` make of a model."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_is_a_stock_model(model: Any, copied: Callable[[Any], Any]) -> None:
    """Catches a copy that runs Blink without a handle, so that it can neither be detached nor attached."""
    inputs = models.batch(model, [1])
    stock = answers(copy.deepcopy(model), inputs)
    handle = blink.attach(model, ALWAYS)
    other = copied(model)  # before it ever ran: transformers then adds hooks that do not pickle
    want = answers(model, inputs)
    assert all(torch.equal(*pair) for pair in zip(answers(other, inputs), stock, strict=True))
    assert handle.trace
    second = blink.attach(other, ALWAYS)
    assert all(torch.equal(*pair) for pair in zip(answers(other, inputs), want, strict=True))
    second.detach()
    handle.detach()
    assert all(torch.equal(*pair) for pair in zip(answers(other, inputs), stock, strict=True))


class Hooks:
    """accelerate's hooks, on the model and on its parts: a wrapper in place of `forward`, which is kept beside it."""

    def __init__(self, model: Any) -> None:
        self.modules = [model, model.model, model.model.language_model]
        self.calls = 0
        for module in self.modules:
            module._old_forward = module.forward

            def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
                self.calls += 1
                return module._old_forward(*args, **kwargs)

            module.forward = functools.update_wrapper(functools.partial(forward, module), module._old_forward)

    def remove(self) -> None:
        """Put back what `forward` was."""
        for module in self.modules:
            module.forward = module._old_forward
            del module._old_forward


@pytest.mark.parametrize("order", ["hook attach detach remove", "hook attach remove detach"])
@pytest.mark.parametrize("turned", [False, True])
def test_in_any_order_with_hooks(model: Any, order: str, turned: bool) -> None:
    """Catches a detach that takes another library's wrapper out or back, and a Blink that it brings back."""
    words = order.split()
    if turned:
        words = [words[1], words[0], *words[2:]]
    inputs = models.batch(model, [1, 2])
    stock = answers(model, inputs)
    handle = blink.attach(model, ALWAYS)
    want = answers(model, inputs)
    handle.detach()
    hooks: Any = None
    attached = hooked = False
    for word in words:
        if word == "hook":
            hooks, hooked = Hooks(model), True
        elif word == "remove":
            hooks.remove()
            hooked = False
        elif word == "attach":
            handle, attached = blink.attach(model, ALWAYS), True
            with pytest.raises(ValueError, match="attached"):
                blink.attach(model, ALWAYS)
        else:
            handle.detach()
            attached = False
        calls = 0 if hooks is None else hooks.calls
        found = answers(model, inputs)
        expected = want if attached else stock
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True)), (words, word)
        assert hooks is None or (hooks.calls > calls) == hooked, (words, word)
    blink.attach(model, ALWAYS).detach()
    assert all(torch.equal(*pair) for pair in zip(answers(model, inputs), stock, strict=True))


def test_wrappers_of_any_library(model: Any) -> None:
    """Catches a detach that knows accelerate's attribute only: this wrapper keeps the forward to itself."""
    inputs = models.batch(model, [1])
    stock = answers(model, inputs)
    handle = blink.attach(model, ALWAYS)
    inner = model.model.forward
    model.model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    assert not torch.equal(answers(model, inputs)[0], stock[0])
    handle.detach()
    assert all(torch.equal(*pair) for pair in zip(answers(model, inputs), stock, strict=True))
    model.model.forward = inner
    assert all(torch.equal(*pair) for pair in zip(answers(model, inputs), stock, strict=True))
    blink.attach(model, ALWAYS).detach()


def test_a_copy_of_a_hooked_model(model: Any) -> None:
    """Catches a copy whose hooks lead back to the model that it was made of."""
    inputs = models.batch(model, [1])
    stock = answers(model, inputs)
    for attach_first in (True, False):
        if not attach_first:
            hooks = Hooks(model)
        handle = blink.attach(model, ALWAYS)
        if attach_first:
            hooks = Hooks(model)
        other = copy.deepcopy(model)
        other.lm_head.weight.data.zero_()
        assert not answers(other, inputs)[0].any()
        handle.detach()
        hooks.remove()
        assert all(torch.equal(*pair) for pair in zip(answers(model, inputs), stock, strict=True))


def test_arguments_can_be_looked_up(model: Any) -> None:
    """Catches a forward of unknown arguments: trainers drop the columns of a batch that it does not name."""
    methods = ("forward", "generate")
    before = [inspect.signature(getattr(model, name)) for name in methods]
    blink.attach(model, ALWAYS)
    assert [inspect.signature(getattr(model, name)) for name in methods] == before


def test_a_generation_config_is_no_mistake(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Catches keywords of ours beside the caller's generation_config, of which transformers warns."""
    inputs = models.batch(model, [1])
    blink.attach(model, ALWAYS)
    expected = model.generate(**inputs, **SETTINGS)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        for named in (None, "dynamic"):
            config = copy.deepcopy(model.generation_config)
            config.update(**SETTINGS, cache_implementation=named)
            assert torch.equal(model.generate(**inputs, generation_config=config), expected)
            assert config.cache_implementation == named
        assert not caplog.records
    finally:
        logger.removeHandler(caplog.handler)
