"""One prompt answered alone: Blink is there for the length of the call, and no longer."""

from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.integrations.alone import attached, cut, prompt_tokens
from blink.model.backbone import Backbone
from blink.model.image_inputs import PictureShapes, prompt_inputs
from blink.model.prompts import template_of
from tests import models


def test_a_text_is_cut_at_the_first_stop() -> None:
    """Would catch a stop that is found by its order in the list."""
    assert cut("one two three", ["three", "two"]) == ("one ", True)
    assert cut("one", ["x"]) == ("one", False)


def test_blink_is_attached_for_the_length_of_the_call(tiny: Backbone) -> None:
    """Would catch a model that stays changed, a run that encodes without its picture, and a handle where nothing acts."""
    picture = models.picture(0, (96, 96))
    prompt = template_of(tiny.processor).prompt("Red?")
    inputs = prompt_inputs(tiny, [picture], [prompt])
    run = Run(Policy([8], tau_exp=0.0, tau_drop=0.0, source="encode")).resolve(tiny)
    with attached(tiny, run, [picture]) as handle:
        assert handle is not None
        tiny.model.generate(**inputs, max_new_tokens=1)
        assert [event.action for event in handle.trace[0]] == ["expand"]
    with attached(tiny, Run(), [picture]) as none:
        assert none is None
    with attached(tiny, run, [picture]):  # which a handle that was left there would refuse
        pass


def test_tokens_of_pictures_count(tiny: Backbone) -> None:
    """Would catch a picture that counts as its one token in the text."""
    picture = models.picture(0, (96, 96))
    prompt = template_of(tiny.processor).prompt("Red?")
    columns = prompt_inputs(tiny, [picture], [prompt])["input_ids"].shape[1]
    assert prompt_tokens(tiny, PictureShapes(tiny), prompt, [picture]) == columns
    assert prompt_tokens(tiny, PictureShapes(tiny), "Red?", []) == len(
        tiny.processor.tokenizer("Red?")["input_ids"]
    )
