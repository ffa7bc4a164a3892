"""Questions answered in every way, in the model's one thread."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from blink import Policy, attach
from blink.integrations.demo.answering import BLINK, ENCODE, INTERP, VANILLA, Demonstrator, Progress
from blink.integrations.demo.asking import Asking, Controls, Known, read
from blink.integrations.demo.plan import Shown
from blink.integrations.demo.scenes import draw
from blink.model.backbone import Backbone
from blink.model.image_inputs import prompt_inputs
from blink.runs.values import UserError
from tests.integrations.demo.shown import shown_of

POLICY = Policy([3, 10], tau_exp=0.3, tau_drop=0.25)
"""One that expands for most scenes."""


def about(scene: int, shown: Shown, tmp_path: Path, policy: Policy = POLICY, question: int = 0) -> Asking:
    """A question about a scene."""
    drawn, path = draw(scene, "ordinary"), tmp_path / f"{scene}.png"
    drawn.picture.save(path)
    text = drawn.questions[question].text
    return read({"path": str(path)}, text, Controls.of(policy), Known.of(drawn), shown)


@pytest.fixture(scope="module")
def demonstrator(tiny: Backbone, shown: Shown) -> Iterator[Demonstrator]:
    """Answers with the tiny backbone."""
    made = Demonstrator(tiny, shown)
    yield made
    made.close()


def stock(
    tiny: Backbone, asking: Asking, token_sr: Any, policy: Policy | None
) -> tuple[list[int], list[Any]]:
    """Ids and events by `attach` and `generate`."""
    inputs = prompt_inputs(tiny, [asking.image], [asking.prompt])
    handle = None if policy is None else attach(tiny, policy, token_sr)
    with torch.inference_mode():
        ids = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=64)
    if handle is None:
        return ids[0, inputs["input_ids"].shape[1] :].tolist(), []
    handle.detach()
    return ids[0, inputs["input_ids"].shape[1] :].tolist(), handle.trace[0]


def test_answers_are_those_of_attach(
    demonstrator: Demonstrator, tiny: Backbone, shown: Shown, tmp_path: Path
) -> None:
    """Would catch columns that are swapped, modules left out, controls that do not arrive, and a right answer that is not."""
    asking = about(5, shown, tmp_path, question=-1)
    *growing, last = demonstrator.answer(asking)
    assert [card.name for card in last.cards] == [VANILLA, INTERP, BLINK]
    ways = ((None, None), (None, POLICY), ("tiny", POLICY))
    for card, (token_sr, policy) in zip(last.cards, ways, strict=True):
        ids, events = stock(tiny, asking, token_sr, policy)
        assert card.told is not None
        assert (list(card.told.ids), list(card.told.events)) == (ids, events)
        assert card.told.seconds is not None
        assert card.told.seconds > 0
    assert any(event.action == "expand" for event in last.cards[2].told.events)  # type: ignore[union-attr]
    # they stream: a text is seen before it is whole, and none shrinks
    seen = [progress.cards[0].text for progress in growing]
    assert len({text for text in seen if text}) > 1
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    explained = last.explained
    assert explained is not None
    assert [one.text for one in explained.answers] == [card.text.strip() for card in last.cards]
    assert [one.flops for one in explained.answers] == [card.flops for card in last.cards]
    assert [one.seconds for one in explained.answers] == [
        card.told.seconds for card in last.cards if card.told
    ]
    assert {one.layer: one.event for one in explained.answers[2].layers if one.event} == {
        event.layer: event for event in explained.answers[2].events
    }
    assert last.right == asking.answer
    assert len(last.right) > 10  # a description


def test_other_thresholds_are_other_events_and_the_model_is_given_back(
    demonstrator: Demonstrator, tiny: Backbone, shown: Shown, tmp_path: Path
) -> None:
    """Would catch a policy that is kept from the question before, and a model that stays attached."""
    before = tiny.model.forward
    actions = []
    for tau_exp, layers in ((0.0, [4]), (1.0, [4]), (0.0, [7, 8])):
        *_, last = demonstrator.answer(about(5, shown, tmp_path, Policy(layers, tau_exp, 0)))
        assert last.cards[2].told is not None
        actions.append([(event.layer, event.action) for event in last.cards[2].told.events])
    assert actions == [[(4, "expand")], [(4, "keep")], [(7, "expand"), (8, "expand")]]
    assert tiny.model.forward == before


def test_methods_without_modules(tiny: Backbone, tmp_path: Path) -> None:
    """Would catch a third column that is the second again, or none where a region is encoded."""
    for override, names in (("interp", [VANILLA, INTERP]), ("encode", [VANILLA, INTERP, ENCODE])):
        shown = shown_of(f"method={override}", "layer=3", "tau_exp=0", "tau_drop=0")
        demonstrator = Demonstrator(tiny, shown)
        *_, last = demonstrator.answer(about(5, shown, tmp_path, shown.policy))
        demonstrator.close()
        assert [card.name for card in last.cards] == names
        assert last.explained is not None
        assert len({one.flops for one in last.explained.answers}) == len(names)


@pytest.mark.slow
def test_several_visitors_at_once_get_their_own_answers(
    demonstrator: Demonstrator, shown: Shown, tmp_path: Path
) -> None:
    """Would catch visitors whose policies or pictures mix in the one model."""
    policies = [POLICY, Policy([4], 0, 0), Policy([7], 1.0, 0)]
    alone = [_facts([*demonstrator.answer(about(n, shown, tmp_path, p))][-1]) for n, p in enumerate(policies)]
    asked = [about(n, shown, tmp_path, p) for n, p in enumerate(policies)]
    found: dict[int, list[Any]] = {}

    def visit(number: int) -> None:
        *_, last = demonstrator.answer(asked[number % 3])
        found[number] = _facts(last)

    threads = [threading.Thread(target=visit, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {number: alone[number % 3] for number in range(6)}


def _facts(progress: Progress) -> list[Any]:
    assert progress.explained is not None
    return [(one.ids, one.events, one.flops) for one in progress.explained.answers]


def test_a_full_queue_and_a_visitor_who_leaves(tiny: Backbone, shown: Shown, tmp_path: Path) -> None:
    """Would catch a queue without an end, and work that is done for nobody."""
    small = Demonstrator(tiny, shown._replace(limits=shown.limits._replace(queue=1)))
    with pytest.raises(UserError, match="1 requests wait already"):
        next(small.answer(about(5, shown, tmp_path)))  # three answers, of which at most one is under way
    small.close()
    roomy = Demonstrator(tiny, shown)
    leaving = roomy.answer(about(5, shown, tmp_path))
    next(leaving)
    leaving.close()
    *_, last = roomy.answer(about(6, shown, tmp_path))
    assert last.explained is not None
    roomy.close()
    late = Demonstrator(tiny, shown._replace(limits=shown.limits._replace(seconds=1e-3)))
    with pytest.raises(UserError, match=r"no answer within 0\.001 seconds"):
        list(late.answer(about(5, shown, tmp_path)))
    late.close()


def test_a_picture_too_narrow_for_the_regions_is_said(
    demonstrator: Demonstrator, shown: Shown, tmp_path: Path
) -> None:
    """Would catch a traceback where the grid cannot be split."""
    asking = about(5, shown, tmp_path)
    wide = asking._replace(policy=replace(POLICY, patches=13))
    with pytest.raises(UserError, match="13"):
        list(demonstrator.answer(wide))
