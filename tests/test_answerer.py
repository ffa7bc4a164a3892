"""A backbone's answers: the same in any batch, and the same as stock generate gives."""

from pathlib import Path

import pytest
import torch

from blink import Policy, TokenSR
from blink.answerer import GreedyAnswerer
from blink.bench import Answer, Sample
from blink.checkpoints import LoadedBackbone, load_backbone
from blink.prompts import TEMPLATES
from tests import models

TEMPLATE = TEMPLATES["vicuna_v1"]
QUESTIONS = ("Is there a red circle?", "What colour is the small star left of the large dog?", "dog?")


@pytest.fixture
def backbone(llava_folder: Path) -> LoadedBackbone:
    return load_backbone(llava_folder)


def sample(number: int) -> Sample:
    """A sample with a picture of its own and a question of its own length."""
    return Sample(
        id=str(number),
        image=str(number),
        question=QUESTIONS[number],
        label="yes",
        split="random",
        open_image=lambda: models.picture(number),
    )


def answers(backbone: LoadedBackbone, batches: list[list[int]], policy: Policy | None) -> list[Answer]:
    """Answer samples in the given batches, with modules for layers 1 and 2 if there is a policy."""
    torch.manual_seed(0)
    modules = {layer: TokenSR(32) for layer in (1, 2)}
    answerer = GreedyAnswerer(
        backbone, TEMPLATE, policy=policy, token_sr=None if policy is None else modules, max_new_tokens=6
    )
    try:
        return [answer for batch in batches for answer in answerer([sample(i) for i in batch])]
    finally:
        answerer.close()


@pytest.mark.parametrize("policy", [None, Policy([1, 2], 0.3, 0.3), Policy([1, 2], 0, 0, selector="random")])
def test_batch_gives_each_sample_what_it_gets_alone(backbone: LoadedBackbone, policy: Policy | None) -> None:
    """Catches padding that leaks, answers in another order, and events of another sample."""
    together, alone = answers(backbone, [[0, 1, 2]], policy), answers(backbone, [[0], [1], [2]], policy)
    assert [(a.response, a.tokens) for a in together] == [(a.response, a.tokens) for a in alone]
    for left, right in zip(together, alone, strict=True):
        assert [(e.layer, e.region, e.action) for e in left.events] == [
            (e.layer, e.region, e.action) for e in right.events
        ]
    assert all(len(answer.events) == (0 if policy is None else 2) for answer in together)


def test_without_policy_it_is_stock_generate(backbone: LoadedBackbone) -> None:
    """Catches a prompt, a decoding or a cut of the answer that differs from the plain library calls."""
    inputs = backbone.processor(
        images=models.picture(1), text=TEMPLATE.prompt(QUESTIONS[1]), return_tensors="pt"
    )
    ids = backbone.model.generate(**inputs, do_sample=False, max_new_tokens=6)[
        0, inputs["input_ids"].shape[1] :
    ]
    expected = backbone.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    [answer] = answers(backbone, [[1]], None)
    assert answer == Answer(expected, len(ids))


def test_closing_token_ends_the_count(backbone: LoadedBackbone) -> None:
    """Catches padding behind a short answer counted as generated, and read as text.

    The closing token is set to the one that the first sample generates first: its answer then has one token, while
    the batch goes on for the others.
    """
    first = [answers(backbone, [[i]], None)[0] for i in range(3)]
    stop = backbone.processor.tokenizer.convert_tokens_to_ids(first[0].response.split()[0])
    backbone.model.generation_config.eos_token_id = [stop, 2]
    stopped, *others = answers(backbone, [[0, 1, 2]], None)
    assert stopped.tokens == 1
    assert stopped.response == first[0].response.split()[0]
    assert max(answer.tokens for answer in others) > 1


def test_close_leaves_the_model_as_it_was(backbone: LoadedBackbone) -> None:
    """Catches Blink left in a model that the next job of a sweep takes for vanilla."""
    before = answers(backbone, [[0, 1]], None)
    answers(backbone, [[0, 1]], Policy([1, 2], 0, 0))
    assert answers(backbone, [[0, 1]], None) == before
