"""What a caller says of a prompt's rows: counts, refusals, and how contexts nest."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import blink
from blink.inference.run import Run
from blink.model.backbone import Backbone
from tests import models
from tests.inference.handles import RANDOM, logits_of
from tests.inference.oracle.comparison import attached, rig

SMALL: dict[str, Any] = {"grid": 6, "kv_heads": 2}
ENCODE = blink.Policy((1,), 0.0, 0.0, source="encode")
BOXED = blink.Policy((1,), 0.0, 0.0, selector="box", patches=3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "crop"}, "source"),
        ({"source": "encode", "interpolate": False}, "interpolate=False"),
        ({"selector": "boxes"}, "selector"),
    ],
)
def test_policies_that_are_refused(settings: dict[str, Any], said: str) -> None:
    """Catches names that mean nothing, and a region that is to be encoded and left small."""
    with pytest.raises(ValueError, match=said):
        blink.Policy((1,), **settings)


def test_modules_are_refused_where_regions_are_encoded() -> None:
    """Catches modules that are dropped in silence."""
    model = rig(**SMALL).model
    with pytest.raises(ValueError, match="takes no token_sr"):
        blink.attach(model, ENCODE, token_sr={1: torch.nn.Identity()})
    with pytest.raises(ValueError, match="takes no token_sr"):
        Run(ENCODE, {1: torch.nn.Identity()}).resolve(Backbone(model))


@pytest.mark.parametrize(
    ("enter", "said"),
    [
        (lambda handle, processor: handle.pictures([models.picture(1)]), "processor is missing"),
        (lambda handle, processor: handle.pictures([torch.zeros(3, 9, 9)], processor), "Tensor"),
        (lambda handle, processor: handle.pictures(models.picture(1), processor), "list with a PIL.Image"),
        (lambda handle, processor: handle.boxes([[1, 2, 3, 4]], [(9, 9)]), "processor is missing"),
        (lambda handle, processor: handle.boxes([[3, 2, 1, 4]], [(9, 9)], processor), "row 0 of boxes"),
        (lambda handle, processor: handle.boxes([None, "b"], [(9, 9)] * 2, processor), "row 1 of boxes"),
        (lambda handle, processor: handle.boxes(7, [(9, 9)], processor), "boxes=7"),
    ],
)
def test_wrong_entries_are_refused_at_once(enter: Callable[..., Any], said: str) -> None:
    """Catches a mistake that shows only deep in a forward, or never."""
    model = rig(**SMALL).model
    with (
        attached(model, BOXED) as handle,
        pytest.raises(ValueError, match=said),
        enter(handle, models.processor(model)),
    ):
        pass


def test_one_entry_per_row() -> None:
    """Catches entries that are repeated or left over, boxes without sizes, and a policy that goes without its box."""
    model = rig(**SMALL).model
    processor, inputs = models.processor(model), models.batch(model, [1, 2])
    pictures = [models.picture(1), models.picture(2)]
    with attached(model, ENCODE) as handle:
        with (
            handle.pictures(pictures[:1], processor),
            pytest.raises(ValueError, match="1 pictures, the prompt has 2"),
        ):
            model(**inputs)
        with handle.pictures(pictures, processor):
            model(**inputs)
    with attached(model, BOXED) as handle:
        with pytest.raises(ValueError, match=r"with handle\.boxes"):
            model(**inputs)
        boxes, sizes = [[0, 0, 9, 9], [40, 40, 60, 60]], [(60, 60)] * 2
        with handle.boxes(boxes, processor=processor), pytest.raises(ValueError, match="sizes are not known"):
            model(**inputs)
        with (
            handle.boxes(boxes, sizes[:1], processor),
            pytest.raises(ValueError, match="1 sizes of pictures"),
        ):
            model(**inputs)
        with (
            handle.boxes(boxes[:1], sizes, processor),
            pytest.raises(ValueError, match="1 boxes, the prompt has 2"),
        ):
            model(**inputs)
        outside = [[0, 0, 9, 9], [70, 70, 90, 90]]
        with handle.boxes(outside, sizes, processor), pytest.raises(ValueError, match="row 1 of boxes"):
            model(**inputs)
        with handle.boxes(boxes, sizes, processor):
            model.generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False)
        assert [row[0].region for row in handle.trace] == [0, 8]


def test_nothing_is_expanded_for_a_question_about_no_single_place() -> None:
    """Catches a question of what is absent that cannot be asked beside others, and a region 0 in its place."""
    model = rig(**SMALL).model
    backbone, inputs = Backbone(model, models.processor(model)), models.batch(model, [1, 2, 3])
    settings: dict[str, Any] = {"patches": BOXED.patches, "scale_tau": False}
    with attached(model, blink.Policy(BOXED.layers, 0.0, 0.0, **settings)) as handle:
        model(**inputs)
        hottest = [row[0].region for row in handle.trace]
    assert {hottest[0], hottest[2]} - {0}
    sizes = [(60, 60)] * 3
    with attached(backbone, BOXED) as handle:
        with handle.boxes([None, [0, 0, 9, 9], None], sizes):
            model(**inputs)
        found = [(row[0].region, row[0].action) for row in handle.trace]
    assert found == [(hottest[0], "keep"), (0, "expand"), (hottest[2], "keep")]
    engine = blink.Engine(backbone)
    prompts = [models.prompt(1), models.prompt(2)]
    run = blink.Run(blink.Policy([1], 0.0, 0.0, selector="box", **settings))
    size = models.picture(1).size
    box = [0, 0, size[0] / 9, size[1] / 9]
    [answers] = engine.answer(models.picture(1), prompts, [run], max_new_tokens=1, boxes=[None, box])
    alone = [
        engine.answer_alone(models.picture(1), prompt, run, max_new_tokens=1, box=given)
        for prompt, given in zip(prompts, (None, box), strict=True)
    ]
    for found_by in (answers, alone):
        assert [(a.events[0].region, a.events[0].action) for a in found_by] == [
            (hottest[0], "keep"),
            (0, "expand"),
        ]


def test_a_backbone_brings_its_processor_and_contexts_nest() -> None:
    """Catches a processor that has to be said twice, and what was said inside that stays behind."""
    model = rig(**SMALL).model
    backbone = Backbone(model, models.processor(model))
    inputs = models.batch(model, [1])
    handle = blink.attach(backbone, BOXED)
    try:
        with handle.boxes([[0, 0, 9, 9]]), handle.pictures([models.picture(1)]):
            model(**inputs)
            assert handle.trace[0][0].region == 0
            with handle.boxes([[45, 45, 60, 60]]):
                model(**inputs)
                assert handle.trace[0][0].region == 8
            model(**inputs)
            assert handle.trace[0][0].region == 0
        with pytest.raises(ValueError, match=r"with handle\.boxes"):
            model(**inputs)
    finally:
        handle.detach()


def test_features_without_pixels_ask_for_pictures() -> None:
    """Catches a crop of nothing where the caller hands over features of the vision tower."""
    model = rig(**SMALL).model
    inputs = models.batch(model, [1])
    features = model.get_image_features(pixel_values=inputs.pop("pixel_values"), return_dict=True)
    with attached(model, ENCODE) as handle, torch.no_grad():
        with pytest.raises(ValueError, match=r"with handle\.pictures"):
            model(**inputs, mm_encoder_outputs={"image": features})
        with handle.pictures([models.picture(1)], models.processor(model)):
            model(**inputs, mm_encoder_outputs={"image": features})
        assert handle.trace[0][0].action == "expand"


def test_sample_keys(model: Any) -> None:
    """Catches keys that are ignored, given to the wrong rows, or kept after their block."""
    inputs = models.batch(model, [1, 2])
    handle = blink.attach(model, RANDOM)
    runs = []
    for keys in (["a", "b"], ["b", "a"], ["a", "b"]):
        with handle.sample_keys(keys):
            model.generate(**inputs, max_new_tokens=1, num_beams=2)
        runs.append([[event.action for event in row] for row in handle.trace])
    assert runs[0] == runs[2]
    assert runs[0] == runs[1][::-1]
    assert runs[0][0] != runs[0][1]
    nothing: Any = None
    with pytest.raises(ValueError, match="sample_keys=None: expected a list"), handle.sample_keys(nothing):
        pass
    with pytest.raises(ValueError, match="sample_keys='ab': expected a list"), handle.sample_keys("ab"):
        pass
    with handle.sample_keys(["a"]), pytest.raises(ValueError, match=r"1 samples.*2 rows"):
        logits_of(model, inputs)
    logits_of(model, inputs)
    with handle.sample_keys(["a", "b"]):
        with handle.sample_keys(["c", "d"]):
            logits_of(model, inputs)
        logits_of(model, inputs)
    assert [[event.action for event in row] for row in handle.trace] == runs[0]


def test_a_draw_needs_a_key_or_pixels(model: Any) -> None:
    """Catches hashing features, whose last bits depend on the batch."""
    inputs = models.batch(model, [1])
    handle = blink.attach(model, RANDOM)
    with torch.no_grad():
        encoded = model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
        with pytest.raises(ValueError, match="sample_keys"):
            model(**inputs, mm_encoder_outputs={"image": encoded})
        with handle.sample_keys(["a"]):
            model(**inputs, mm_encoder_outputs={"image": encoded})
    assert len(handle.trace[0]) == 4
