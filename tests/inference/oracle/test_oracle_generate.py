"""generate() behind blink.attach against recomputing the whole sequence with the prompt's events."""

from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from blink.model.backbone import CACHE
from tests import models
from tests.inference.oracle import comparison
from tests.inference.oracle import literal as oracle
from tests.inference.oracle.comparison import (
    attached,
    check_generation,
    modules_of,
    random_plan,
    rig,
    samples,
)

SHAPES: list[dict[str, Any]] = [
    {"attention": "eager"},
    {"attention": "sdpa", "kv_heads": 2},
    {"attention": "sdpa"},
    {"attention": "eager", "kv_heads": 2},
]
ALWAYS: dict[str, Any] = {"tau_exp": 0.0, "tau_drop": 0.0}
CYCLE = oracle.Plan((0, 2, 3), schedule="cycle")
"""Expand, drop, expand: caches of four lengths, and an extension that lives to the end."""
SMALL: dict[str, Any] = {"grid": 6, "kv_heads": 2}


def case(
    seed: int,
) -> tuple[comparison.Rig, dict[str, torch.Tensor], oracle.Plan, dict[int, torch.nn.Module] | None]:
    """A small model beside its twin, prompts of one to four pictures, a random policy, and modules or none."""
    settings = SHAPES[seed % len(SHAPES)]
    pair = rig(**settings)
    inputs = models.batch(pair.model, [300 + 10 * seed + row for row in range(1 + seed % 4)])
    plan = random_plan(500 + seed, "llava", (2, 3, 4), **settings)
    return pair, inputs, plan, modules_of(pair.twin) if seed % 3 else None


@pytest.mark.parametrize("seed", range(12))
def test_every_step_equals_recomputing(seed: int) -> None:
    """Catches decoding at one layer's positions for all, masks that lose an extension, or late re-scans."""
    check_generation(*case(seed), max_new_tokens=10, do_sample=False)


def test_the_cases_above_expand_and_live_on() -> None:
    """Decoding without living or dead extensions in the caches proves nothing."""
    seen: set[str] = set()
    for seed in range(12):
        pair, inputs, plan, modules = case(seed)
        for sample in samples(pair.twin, inputs):
            seen |= comparison.transitions(oracle.run(pair.twin, sample.ids_S, sample.picture, plan, modules))
    assert seen >= {"alive at the end", "drop living", "expand living", "expand nothing", "drop nothing"}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_greedy_ids(attention: str) -> None:
    """Catches what teacher forcing could hide: the oracle decodes by itself, token by token."""
    pair = rig(attention=attention, **SMALL)
    modules = modules_of(pair.twin)
    inputs = models.batch(pair.model, [1, 2, 3])
    with attached(pair.model, CYCLE, modules):
        ids = pair.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    compared = 0
    for row, sample in zip(
        ids[:, inputs["input_ids"].shape[1] :].tolist(), samples(pair.twin, inputs), strict=True
    ):
        want, lead = oracle.generate(pair.twin, sample.ids_S, sample.picture, CYCLE, modules, 12)
        if lead > 1e-3:
            assert row[: len(want)] == want
            compared += 1
    assert compared >= 2


def test_hundreds_of_tokens() -> None:
    """Catches errors that grow with the answer: lost cache entries, positions that drift."""
    pair = rig(**SMALL)
    inputs = models.batch(pair.model, [4, 5])
    settings: dict[str, Any] = {"max_new_tokens": 300, "min_new_tokens": 300, "do_sample": False}
    assert check_generation(pair, inputs, CYCLE, modules_of(pair.twin), **settings)


def test_rows_that_end_early() -> None:
    """Catches a finished row that disturbs its neighbours."""
    pair = rig(**SMALL)
    inputs = models.batch(pair.model, [1, 2, 3])
    modules = modules_of(pair.twin)
    start = inputs["input_ids"].shape[1]
    with attached(pair.model, CYCLE, modules):
        free = pair.model.generate(**inputs, max_new_tokens=9, do_sample=False)[:, start:]
        end = int(free[1, 3])
        stopped = pair.model.generate(**inputs, max_new_tokens=9, do_sample=False, eos_token_id=end)[
            :, start:
        ]
    ends = [row.tolist().index(end) + 1 if end in row.tolist() else 9 for row in free]
    assert min(ends) < 9
    for row in range(3):
        assert stopped[row, : ends[row]].tolist() == free[row, : ends[row]].tolist()
        assert (stopped[row, ends[row] :] == 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_beams(attention: str) -> None:
    """Catches caches whose lengths, masks or extensions are not reordered with the beams."""
    pair = rig(attention=attention, **SMALL)
    modules = modules_of(pair.twin)
    inputs = models.batch(pair.model, [11, 12, 13])
    with attached(pair.model, CYCLE, modules) as handle:
        out = pair.model.generate(
            **inputs,
            max_new_tokens=6,
            num_beams=3,
            num_return_sequences=3,
            do_sample=False,
            eos_token_id=None,
            length_penalty=0.0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        assert [len(row) for row in handle.trace] == [3, 3, 3]
        trace = handle.trace
    tokens = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    for row, sample in enumerate(samples(pair.twin, inputs)):
        outcome = oracle.run(pair.twin, sample.ids_S, sample.picture, CYCLE, modules)
        comparison.check_events(trace[row], outcome)
        want = oracle.beam_search(pair.twin, sample.ids_S, sample.picture, CYCLE, modules, 6, 3)
        assert tokens[3 * row : 3 * row + 3] == [beam for beam, _ in want]
        scores = out.sequences_scores[3 * row : 3 * row + 3].tolist()
        assert scores == pytest.approx([score for _, score in want], abs=1e-3)


def test_beams_of_a_batch_are_those_of_its_rows() -> None:
    """Catches beams of one prompt that take another prompt's cache; here beams end at different lengths."""
    pair = rig(**SMALL)
    settings: dict[str, Any] = {
        "max_new_tokens": 8,
        "num_beams": 3,
        "do_sample": False,
        "eos_token_id": list(range(20, 40)),
    }
    inputs = models.batch(pair.model, [21, 22, 23, 24])
    start = inputs["input_ids"].shape[1]
    with attached(pair.model, CYCLE, modules_of(pair.twin)):
        together = pair.model.generate(**inputs, **settings)[:, start:].tolist()
        for row, sample in enumerate(samples(pair.twin, inputs)):
            alone = pair.model.generate(**sample.inputs, **settings)[0, len(sample.ids_S) :].tolist()
            assert together[row][: len(alone)] == alone
            assert set(together[row][len(alone) :]) <= {0}


@pytest.mark.parametrize("returned", [1, 3])
def test_sampling(returned: int) -> None:
    """Catches rows that are not repeated with `num_return_sequences`: the oracle draws with the same seed."""
    pair = rig(**SMALL)
    modules = modules_of(pair.twin)
    inputs = models.batch(pair.model, [31, 32])
    torch.manual_seed(5)
    with attached(pair.model, CYCLE, modules) as handle:
        out = pair.model.generate(
            **inputs,
            max_new_tokens=6,
            do_sample=True,
            top_k=0,
            eos_token_id=None,
            num_return_sequences=returned,
        )
        assert [len(row) for row in handle.trace] == [3, 3]
    rows = [sample for sample in samples(pair.twin, inputs) for _ in range(returned)]
    replays = [
        oracle.replay_of(oracle.run(pair.twin, row.ids_S, row.picture, CYCLE, modules)) for row in rows
    ]
    wholes = [row.ids_S for row in rows]
    torch.manual_seed(5)
    for _ in range(6):
        logits = [
            oracle.run(pair.twin, whole, row.picture, CYCLE, modules, len(row.ids_S), replay).logits_SW[-1]
            for whole, row, replay in zip(wholes, rows, replays, strict=True)
        ]
        drawn = torch.multinomial(torch.stack(logits).softmax(-1), num_samples=1)
        wholes = [torch.cat([whole, token]) for whole, token in zip(wholes, drawn, strict=True)]
    start = inputs["input_ids"].shape[1]
    assert out[:, start:].tolist() == [whole[-6:].tolist() for whole in wholes]


class Collect(BaseStreamer):
    """A streamer that keeps what it is given, and calls `then` before each token but the first."""

    def __init__(self, then: Any = None) -> None:
        self.chunks: list[torch.Tensor] = []
        self.then = then

    def put(self, value: torch.Tensor) -> None:
        if self.then is not None and self.chunks:
            self.then()
        self.chunks.append(value.flatten())

    def end(self) -> None:
        pass


def test_streamer() -> None:
    """Catches a streamer that gets other tokens than the caller."""
    pair = rig(**SMALL)
    inputs = models.batch(pair.model, [41])
    streamer = Collect()
    with attached(pair.model, CYCLE):
        ids = pair.model.generate(**inputs, max_new_tokens=6, do_sample=False, streamer=streamer)
    assert torch.cat(streamer.chunks).tolist() == ids[0].tolist()


def test_generations_inside_generations() -> None:
    """Catches state of a running generation that lives on the handle: each token starts another prompt."""
    pair = rig(**SMALL)
    outer, inner = models.batch(pair.model, [51, 52]), models.batch(pair.model, [53])
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}

    class Interrupt(LogitsProcessor):
        """Answers another prompt before each token of this one."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            pair.model.generate(**inner, **settings)
            return scores

    with attached(pair.model, CYCLE, modules_of(pair.twin)):
        alone = pair.model.generate(**outer, **settings)
        disturbed = pair.model.generate(
            **outer, **settings, logits_processor=LogitsProcessorList([Interrupt()])
        )
    assert disturbed.tolist() == alone.tolist()


def test_interleaved_caches() -> None:
    """Catches two hand-driven decodings that mix: each continues from its own cache."""
    pair = rig(**SMALL)
    modules = modules_of(pair.twin)
    sides = [models.batch(pair.model, [61, 62]), models.batch(pair.model, [63, 64, 65])]
    tokens = [torch.arange(40, 48).view(2, 4), torch.arange(50, 62).view(3, 4)]
    with attached(pair.model, CYCLE, modules), torch.no_grad():
        outs = [pair.model(**inputs, use_cache=True) for inputs in sides]
        caches, masks = [out[CACHE] for out in outs], [inputs["attention_mask"] for inputs in sides]
        steps: list[list[torch.Tensor]] = [[], []]
        for step in range(4):
            for side in (0, 1):
                new = tokens[side][:, step : step + 1]
                masks[side] = torch.cat([masks[side], torch.ones_like(new)], dim=1)
                out = pair.model(input_ids=new, attention_mask=masks[side], **{CACHE: caches[side]})
                steps[side].append(out.logits[:, -1])
    for side, inputs in enumerate(sides):
        for row, sample in enumerate(samples(pair.twin, inputs)):
            outcome = oracle.run(pair.twin, sample.ids_S, sample.picture, CYCLE, modules)
            if comparison.undecided(outcome):
                continue
            whole_S = torch.cat([sample.ids_S, tokens[side][row]])
            replay = oracle.replay_of(outcome)
            want = oracle.run(
                pair.twin, whole_S, sample.picture, CYCLE, modules, len(sample.ids_S), replay
            ).logits_SW[-4:]
            comparison.check_logits(torch.stack([step[row] for step in steps[side]]), want)


def test_several_tokens_on_a_cache() -> None:
    """Catches a causal mask that is right for one new token only."""
    pair = rig(**SMALL)
    modules = modules_of(pair.twin)
    inputs = models.batch(pair.model, [71, 72])
    new = torch.arange(40, 50).view(2, 5)
    with attached(pair.model, CYCLE, modules), torch.no_grad():
        cache = pair.model(**inputs, use_cache=True)[CACHE]
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
        got = pair.model(input_ids=new, attention_mask=mask, **{CACHE: cache}).logits
    for row, sample in enumerate(samples(pair.twin, inputs)):
        outcome = oracle.run(pair.twin, sample.ids_S, sample.picture, CYCLE, modules)
        whole_S = torch.cat([sample.ids_S, new[row]])
        replay = oracle.replay_of(outcome)
        want = oracle.run(pair.twin, whole_S, sample.picture, CYCLE, modules, len(sample.ids_S), replay)
        comparison.check_logits(got[row], want.logits_SW[-5:])


def test_a_generated_image_token_is_a_token() -> None:
    """Catches image tokens counted beyond the prompt: a sampled <image> id is embedded like any other."""
    pair = rig(**SMALL)

    class Force(LogitsProcessor):
        """Makes the second and third token <image>."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if input_ids.shape[1] - start not in (1, 2):
                return scores
            chosen = torch.arange(scores.shape[1]) == pair.model.config.image_token_id
            return scores.masked_fill(~chosen, -1e9)

    inputs = models.batch(pair.model, [81, 82])
    start = inputs["input_ids"].shape[1]
    settings: dict[str, Any] = {
        "max_new_tokens": 6,
        "do_sample": False,
        "logits_processor": LogitsProcessorList([Force()]),
    }
    assert check_generation(pair, inputs, CYCLE, modules_of(pair.twin), **settings)


def test_processors_that_touch_logits_only() -> None:
    """Catches a generate that supports plain greedy decoding only."""
    pair = rig(**SMALL)
    inputs = models.batch(pair.model, [91, 92])
    settings: dict[str, Any] = {
        "max_new_tokens": 8,
        "do_sample": False,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
    }
    assert check_generation(pair, inputs, CYCLE, None, **settings)
