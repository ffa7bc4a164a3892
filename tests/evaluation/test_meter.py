"""What a question costs by its row, against what torch counts while it is answered."""

from collections.abc import Callable
from typing import Any

import pytest

from blink import Policy, TokenSR, attach, save_token_sr
from blink.evaluation.meter import Meter
from tests import models
from tests.flops import counted_forward

POLICIES = {
    "stock": None,
    "always": Policy([1, 3], tau_exp=0, tau_drop=0),
    "as it was cut": Policy([1, 3], tau_exp=0, tau_drop=0, interpolate=False, patches=3),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("make", [models.llava, models.llava_next])
def test_question_alone(make: Callable[..., models.Model], policy: Policy | None, tmp_path: Any) -> None:
    """Would catch tiles or answers that are forgotten, and a module's cost that ignores its folder or its input."""
    model = make(grid=6)
    size, answer = (50, 95), 4
    processor = models.processor(model)
    save_token_sr({layer: TokenSR(48, (8, 6), (3, 1, 1)) for layer in (1, 3)}, tmp_path, backbone="none")
    handle = None if policy is None else attach(model, policy, str(tmp_path))
    text = models.prompt(2)
    inputs = processor(images=models.picture(2, size), text=text, return_tensors="pt")
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": answer, "min_new_tokens": answer}
    found = counted_forward(lambda: model.generate(**inputs, **settings))
    events = [] if handle is None else handle.trace[0]
    meter = Meter(model.config, processor.tokenizer, policy, None if policy is None else str(tmp_path))
    assert meter(size, text, events, answer) == found


def test_modules_of_a_mapping_count_like_those_of_a_folder(tmp_path: Any) -> None:
    """Would catch modules that are given directly and count nothing."""
    model = models.llava(grid=6)
    modules = {1: TokenSR(48, (8, 6), (3, 1, 1))}
    save_token_sr(modules, tmp_path, backbone="none")
    policy, tokenizer = Policy([1], tau_exp=0, tau_drop=0), models.tokenizer()
    handle = attach(model, policy, modules)
    model(**models.batch(model, [0]), logits_to_keep=1)
    by_folder, by_mapping, without = (
        Meter(model.config, tokenizer, policy, given)((60, 60), models.prompt(0), handle.trace[0], 1)
        for given in (str(tmp_path), modules, None)
    )
    assert by_folder == by_mapping == without + 2 * 36 * (48 * 8 * 9 + 8 * 6 + 6 * 48)
