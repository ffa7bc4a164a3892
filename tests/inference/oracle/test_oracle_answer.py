"""A prompt and its answer in one forward (teacher forcing): events and logits against the literal Algorithm 1.

Axes: B samples, S columns, W words.
"""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import blink
from blink.model.backbone import CACHE
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.comparison import Rig, attached, modules_of, random_plan, rig, samples

SMALL: dict[str, Any] = {"grid": 6, "kv_heads": 2}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("llava", {"attention": "eager", "kv_heads": 2}),
    ("llava", {}),
    ("llava_next", {"kv_heads": 2}),
]
LENGTHS = (5, 1, 0, 9)
"""Tokens of the answers of a batch; one has none."""


class Forced(NamedTuple):
    """A padded batch of prompts and answers, labels that count the answers, and the last column of each prompt."""

    inputs: dict[str, Tensor]
    labels_BS: Tensor
    ends: list[int]
    answers: list[Tensor]


def forced(pair: Rig, seeds: list[int], side: str) -> Forced:
    """One answer of random words behind the prompt of each seed, rows padded on one side."""
    inputs = models.batch(pair.model, seeds)
    generator = torch.Generator().manual_seed(seeds[0])
    rows, labels, answers, prompts = [], [], [], []
    for sample, length in zip(samples(pair.twin, inputs), LENGTHS, strict=False):
        answer = torch.randint(20, 60, (length,), generator=generator)
        rows.append(torch.cat([sample.ids_S, answer]))
        labels.append(torch.cat([torch.full_like(sample.ids_S, -100), answer]))
        answers.append(answer)
        prompts.append(len(sample.ids_S))

    def padded(tensors: list[Tensor], value: int) -> Tensor:
        return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)

    mask_BS = padded([torch.ones_like(row) for row in rows], 0)
    starts = mask_BS.argmax(dim=1).tolist()
    ends = [start + length - 1 for start, length in zip(starts, prompts, strict=True)]
    inputs = {**inputs, "input_ids": padded(rows, 0), "attention_mask": mask_BS}
    return Forced(inputs, padded(labels, -100), ends, answers)


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("said_by", ["labels", "prompt_end"])
def test_an_answer_changes_neither_events_nor_earlier_logits(seed: int, side: str, said_by: str) -> None:
    """Catches a scan from the answer, or over its keys, and an answer at other positions than decoding gives it."""
    family, settings = SHAPES[seed % len(SHAPES)]
    pair = rig(family, **settings)
    plan = random_plan(700 + seed, family, (2, 3), **settings)
    modules = modules_of(pair.twin) if seed % 2 else None
    batch = forced(pair, [700 + 10 * seed + row for row in range(4)], side)
    with attached(pair.model, plan, modules) as handle, torch.no_grad():
        if said_by == "labels":
            logits_BSW = pair.model(**batch.inputs, labels=batch.labels_BS).logits
        else:
            with handle.prompt_end(batch.ends):
                logits_BSW = pair.model(**batch.inputs).logits
        trace = handle.trace
    for row, whole in enumerate(samples(pair.twin, batch.inputs)):
        length = len(whole.ids_S) - len(batch.answers[row])
        alone = oracle.run(pair.twin, whole.ids_S[:length], whole.picture, plan, modules)
        outcome = oracle.run(pair.twin, whole.ids_S, whole.picture, plan, modules, length)
        assert [step.region for step in outcome.steps] == [step.region for step in alone.steps]
        if comparison.undecided(outcome):
            continue
        comparison.check_events(trace[row], outcome)
        real = batch.inputs["attention_mask"][row].bool()
        comparison.check_logits(logits_BSW[row][real], outcome.logits_SW)
        comparison.check_logits(logits_BSW[row][real][:length], alone.logits_SW)


def test_the_cases_above_would_tell_a_scan_from_the_answer() -> None:
    """Answers that lead to the prompt's events wherever the scan stands prove nothing."""
    differing = rows = 0
    for seed in range(9):
        family, settings = SHAPES[seed % len(SHAPES)]
        pair = rig(family, **settings)
        plan = random_plan(700 + seed, family, (2, 3), **settings)
        batch = forced(pair, [700 + 10 * seed + row for row in range(4)], "left")
        for whole, answer in zip(samples(pair.twin, batch.inputs), batch.answers, strict=True):
            prompt = oracle.run(
                pair.twin, whole.ids_S, whole.picture, plan, None, len(whole.ids_S) - len(answer)
            )
            late = oracle.run(pair.twin, whole.ids_S, whole.picture, plan)
            differing += oracle.replay_of(prompt) != oracle.replay_of(late)
            rows += 1
    assert differing >= rows // 3


@pytest.mark.parametrize("saliency", ["attention", "similarity"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_by_labels_is_loss_by_decoding(side: str, saliency: str) -> None:
    """Catches a training loss of other events than the ones that generation will see."""
    pair = rig(**SMALL)
    plan = oracle.Plan((0, 2, 3), tau_exp=0.35, tau_drop=0.3, saliency=saliency)
    batch = forced(pair, [41, 42, 43, 44], side)
    by_decoding = []
    with attached(pair.model, plan, modules_of(pair.twin)), torch.no_grad():
        loss = pair.model(**batch.inputs, labels=batch.labels_BS).loss
        for sample, answer in zip(samples(pair.twin, batch.inputs), batch.answers, strict=True):
            prompt = sample.ids_S[None, : len(sample.ids_S) - len(answer)]
            out = pair.model(input_ids=prompt, pixel_values=sample.inputs["pixel_values"], use_cache=True)
            for token in answer:
                by_decoding.append(F.cross_entropy(out.logits[0, -1], token))
                out = pair.model(input_ids=token[None, None], **{CACHE: out[CACHE]})
    assert len(by_decoding) == sum(LENGTHS)
    torch.testing.assert_close(loss, torch.stack(by_decoding).mean(), rtol=1e-5, atol=1e-6)


def test_draws_do_not_depend_on_the_answer() -> None:
    """Catches a sample key that hashes the answer, so that random policies draw anew for every one."""
    pair = rig(**SMALL)
    batch = forced(pair, [51, 52, 53, 54], "right")
    policy = blink.Policy(range(5), selector="random", schedule="random")
    with attached(pair.model, policy) as handle, torch.no_grad():
        pair.model(**models.batch(pair.model, [51, 52, 53, 54]))
        drawn = [[(event.action, event.region) for event in row] for row in handle.trace]
        pair.model(**batch.inputs, labels=batch.labels_BS)
        assert [[(event.action, event.region) for event in row] for row in handle.trace] == drawn


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_of_a_labelled_answer(reentrant: bool) -> None:
    """Catches a replay in the backward pass that scans from the answer's end, or without the extension."""
    pair = Rig(models.llava(**SMALL), rig(**SMALL).twin)
    batch, outcomes = forced(pair, [61, 62, 63], "right"), []
    with attached(pair.model, oracle.Plan((0, 2, 3), tau_exp=0.35, tau_drop=0.3)) as handle:
        pair.model.train()
        pair.model.enable_input_require_grads()
        for checkpointing in (False, True):
            if checkpointing:
                models.checkpoint_activations(pair.model, reentrant)
            pair.model.zero_grad()
            loss = pair.model(**batch.inputs, labels=batch.labels_BS).loss
            loss.backward()
            layers = pair.model.model.language_model.layers
            grads = [layer.self_attn.q_proj.weight.grad.clone() for layer in layers]
            outcomes.append((handle.trace, loss.detach(), grads))
    assert outcomes[0][0] == outcomes[1][0]
    assert {event.action for row in outcomes[0][0] for event in row} >= {"expand"}
    torch.testing.assert_close(outcomes[1][1:], outcomes[0][1:], atol=1e-6, rtol=1e-5)


def test_a_scan_may_stand_within_a_prompt_of_generate() -> None:
    """Catches prompt ends that are taken per beam, not per prompt row."""
    pair = rig(**SMALL)
    batch = forced(pair, [71, 72], "left")
    plan = oracle.Plan((0, 2, 3), tau_exp=0.0, tau_drop=0.0)
    with attached(pair.model, plan) as handle, torch.no_grad():
        with handle.prompt_end(torch.tensor(batch.ends)):
            pair.model(**batch.inputs)
            once = handle.trace
            pair.model.generate(**batch.inputs, num_beams=2, max_new_tokens=2, do_sample=False)
        assert [[event.region for event in row] for row in handle.trace] == [
            [event.region for event in row] for row in once
        ]


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([40], r"1 columns.*2 rows"),
        ([40, 40, 40], r"3 columns.*2 rows"),
        ([0, None], "row 0.*column 0"),
        ([None, -1], "row 1.*column -1"),
        ([None, 4000], "row 1.*column 4000"),
        (["padding", None], "row 0.*padding"),
    ],
)
def test_ends_that_are_none_are_refused(ends: list[Any], message: str) -> None:
    """Catches a prompt that ends in its picture, on padding or outside the batch, or rows that are not named."""
    pair = rig(**SMALL)
    batch = forced(pair, [81, 82], "right")
    last = batch.inputs["attention_mask"].sum(dim=1).tolist()
    if ends[0] == "padding":
        batch.inputs["attention_mask"][0, last[0] - 1 :] = 0
        ends = [last[0] - 1, None]
    named = [known if end is None else end for end, known in zip(ends, batch.ends, strict=False)]
    named += ends[2:]
    with attached(pair.model, oracle.Plan((1,))) as handle, torch.no_grad():
        with pytest.raises(ValueError, match=message), handle.prompt_end(named):
            pair.model(**batch.inputs)
        for kind in (7, "77", [7.5, 7], [None, 7], torch.tensor([7.5, 7.0])):
            with pytest.raises(ValueError, match="expected a list"), handle.prompt_end(kind):
                pass
        pair.model(**batch.inputs)


def test_labels_within_the_picture_are_refused() -> None:
    """Catches labels that were copied from all ids: the scan would stand before the picture."""
    pair = rig(**SMALL)
    batch = forced(pair, [91, 92], "left")
    ids = batch.inputs["input_ids"]
    picture = (ids[1] == pair.model.config.image_token_id).nonzero()[:, 0].tolist()
    with attached(pair.model, oracle.Plan((1,))) as handle, torch.no_grad():
        for first in (0, picture[0], picture[-1], picture[-1] + 1):
            labels = batch.labels_BS.clone()
            labels[1, first] = 7
            with pytest.raises(ValueError, match=rf"row 1.*column {first}.*-100"):
                pair.model(**batch.inputs, labels=labels)
        labels[1, picture[-1] + 1] = -100
        labels[1, picture[-1] + 2] = 7
        assert pair.model(**batch.inputs, labels=labels).loss.isfinite()
        with handle.prompt_end(batch.ends):
            assert pair.model(**batch.inputs, labels=ids).loss.isfinite()
        with pytest.raises(ValueError, match="prompt_end"):
            pair.model(**batch.inputs, labels=batch.labels_BS[:, -3:], logits_to_keep=3)
        with handle.disabled():
            assert pair.model(**batch.inputs, labels=ids).loss.isfinite()
