"""The tiny backbone's tokenizer and processor, its training batches, and a training that survives a kill."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from blink.model.prompts import IMAGE_TOKEN
from blink.scenes.ask import QUESTION_KINDS
from blink.scenes.draw import scene
from blink.scenes.tiny import packed_attention as packed
from blink.scenes.tiny.lessons import GRID, Course, PatchLessons, QuestionLessons, pixels
from blink.scenes.tiny.model import TEMPLATE, build_model, build_processor
from blink.scenes.tiny.stages import Stage
from blink.scenes.tiny.train import Trainer
from blink.scenes.view import view

COURSE = Course(dict.fromkeys(QUESTION_KINDS, 1.0), {"easy": 1.0, "hard": 1.0}, long=0.5, kept=20)


def test_tokenizer_reads_its_own_words_back() -> None:
    """Would catch an answer that decodes to something the scorer does not know."""
    tokenizer = build_processor().tokenizer
    for text in ("Yes", "No", "top left", "Yes, there is a red circle.", "E", "xylophone"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.unk_token_id not in ids


def test_prompt_tokens_do_not_depend_on_what_follows_the_image() -> None:
    """Would catch training batches that are tokenized in parts and differ from what the processor makes."""
    tokenizer = build_processor().tokenizer
    question = "Is there a red circle in the image?\nAnswer the question using a single word or phrase."
    prompt = TEMPLATE.prompt(question)
    after = prompt.removeprefix(TEMPLATE.prefix + IMAGE_TOKEN)
    parts = [
        *tokenizer(TEMPLATE.prefix).input_ids,
        tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        *tokenizer(after, add_special_tokens=False).input_ids,
    ]
    assert tokenizer(prompt).input_ids == parts


@pytest.mark.parametrize("quadrant", [None, 2])
def test_training_pixels_are_the_processors(quadrant: int | None) -> None:
    """Would catch a backbone trained on other pixels than it gets."""
    image = view(scene("test", 4), quadrant).image
    expected = build_processor().image_processor(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels(image), expected)


def test_packed_attention_is_attention_under_a_block_mask() -> None:
    """Would catch questions that see each other, or a prefix that sees the questions."""
    B, N, P, Q, T, D = 2, 3, 5, 4, 6, 8
    S = P + Q * T
    query, key, value = torch.randn(3, B, N, S, D).unbind()
    block_S = torch.cat((torch.full((P,), -1), torch.arange(Q).repeat_interleave(T)))
    sees_SS = torch.ones(S, S, dtype=torch.bool).tril()
    sees_SS &= (block_S[:, None] == block_S) | (block_S == -1)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=sees_SS, scale=0.3)
    found, _ = packed.packed_attention(
        torch.nn.Identity(), query, key, value, None, scaling=0.3, question_length=T, prefix_length=P
    )
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_lessons_follow_from_stage_and_step() -> None:
    """Would catch batches that depend on what was drawn before: a resumed training would repeat or lose some."""
    tokenizer = build_processor().tokenizer
    one, two = (QuestionLessons("x", COURSE, tokenizer, 2, 5) for _ in range(2))
    one[0]
    for left, right in zip(one[3], two[3], strict=True):
        assert torch.equal(torch.as_tensor(left), torch.as_tensor(right))
    assert not torch.equal(one[3].pixels_BCYX, one[4].pixels_BCYX)


def test_targets_are_the_next_tokens_of_the_response() -> None:
    """Would catch targets shifted by one, or a loss on the question."""
    tokenizer = build_processor().tokenizer
    batch = QuestionLessons("x", COURSE, tokenizer, 2, 5)[1]
    asked = tokenizer.convert_tokens_to_ids("ASSISTANT:")
    for ids_S, targets_S in zip(batch.ids_BS, batch.targets_BS, strict=True):
        where = (targets_S != -100).nonzero()[:, 0].tolist()
        assert where
        for column in where:
            if targets_S[column] != tokenizer.eos_token_id:
                assert targets_S[column] == ids_S[column + 1]
            assert ids_S[column] == asked or targets_S[column - 1] == ids_S[column]


def test_kept_tokens_show_every_object() -> None:
    """Would catch questions about objects whose tokens were left out."""
    labels = PatchLessons("x", 4, 3)[0]
    assert labels.colour_BV.shape == (4, GRID**2)
    assert ((labels.colour_BV > 0) == (labels.shape_BV > 0)).all()
    batch = QuestionLessons("x", replace(COURSE, kept=60), build_processor().tokenizer, 4, 3)[0]
    assert (batch.kept_BK.diff(dim=1) > 0).all()
    assert batch.positions_BS[0, batch.prefix_length] == 2 + GRID**2


@pytest.mark.slow
def test_a_killed_training_ends_like_one_that_was_not(tmp_path: Path) -> None:
    """Would catch a resumed training that starts its optimizer, schedule or batches anew."""
    stages = (
        Stage("vision", "vision", steps=2, batch=2, rate=1e-3, warmup=1, decay=1),
        Stage("basics", "language", steps=3, batch=1, rate=1e-3, warmup=1, decay=2, course=COURSE),
    )
    whole, killed = (Trainer(tmp_path / name, seed=1, compiled=False) for name in ("whole", "killed"))
    for trainer in (whole, killed):
        trainer.folder.mkdir()
    whole.run(stages)
    lessons = killed.lessons
    killed.lessons = lambda stage: _Broken(lessons(stage)) if stage.name == "basics" else lessons(stage)  # type: ignore[assignment,return-value]
    killed.save_seconds = 0
    with pytest.raises(RuntimeError, match="killed"):
        killed.run(stages)
    again = Trainer(tmp_path / "killed", seed=1, compiled=False)
    again.run(stages)
    for (name, weight), other in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=0, msg=name)


class _Broken(torch.utils.data.Dataset):
    """Lessons that fail at their third step, as a kill would."""

    def __init__(self, lessons: QuestionLessons | PatchLessons) -> None:
        self.inner = lessons

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, step: int) -> object:
        if step == 2:
            raise RuntimeError("killed")
        return self.inner[step]


def test_untrained_model_is_a_stock_llava_of_the_stated_size() -> None:
    """Would catch a backbone that outgrows what ships."""
    model = build_model(build_processor().tokenizer, seed=0)
    assert sum(weight.numel() for weight in model.parameters()) * 2 < 15e6
    assert model.config.text_config.num_hidden_layers == 16


@pytest.mark.slow
def test_training_goes_on_from_a_trained_backbone(tmp_path: Path) -> None:
    """Would catch a start from random weights, or stages before the named one run again."""
    stages = (
        Stage("vision", "vision", steps=1, batch=1, rate=1e-3, warmup=1, decay=1),
        Stage("basics", "language", steps=1, batch=1, rate=0.0, warmup=1, decay=1, course=COURSE),
    )
    first = Trainer(tmp_path, seed=1, compiled=False)
    first.model.save_pretrained(tmp_path / "trained")
    again = Trainer(tmp_path, seed=2, compiled=False)
    again.start_from(tmp_path / "trained")
    again.run(stages, first=1)
    for weight, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-6)


def test_a_stage_without_steps_averages_weights(tmp_path: Path) -> None:
    """Would catch a share that goes to the wrong side, and a stage without steps that trains or fails."""
    one, other = (Trainer(tmp_path, seed=seed, compiled=False) for seed in (1, 2))
    one.save_weights("early")
    expected = [a.lerp(b, 0.7) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)]
    other.run((Stage("mean", "all", 0, 1, 0.0, 0, 0, COURSE, average=("early", 0.3)),))
    for weight, mean in zip(other.model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight, mean)
