"""The loss of right answers: against attach with labels, alone and together, and whole runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import blink
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.prompts import CHAT, TEMPLATES, template_of
from blink.model.token_sr import KINDS, Design, make_token_sr
from blink.model.token_sr.files import token_sr_config
from blink.scenes.formats import Exchange
from blink.training.answers.lessons import AskedImage, LessonMaker
from blink.training.answers.loss import answer_losses, answer_policy
from blink.training.module import TokenSRTraining
from tests import models
from tests.training_runs import common, folder_of, run, same_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")

EXCHANGES = [Exchange("the red circle right", "Yes"), Exchange("how many are there", "the red square")]


def made(name: str = "llava", size: tuple[int, int] = (60, 60)) -> tuple[Backbone, AskedImage]:
    """A small frozen backbone, and two questions about a picture."""
    model = models.family(name).requires_grad_(False)
    processor = models.processor(model)
    own = processor.chat_template is not None
    template = template_of(processor, CHAT) if own else TEMPLATES["vicuna_v1"]
    asked = LessonMaker(processor, template, keep_image=True)(models.picture(3, size), EXCHANGES)
    return Backbone(model, processor), asked


def moved(kind: str, seed: int = 0) -> Design:
    """A module that is not at its beginning."""
    torch.manual_seed(seed)
    module = make_token_sr(kind, 48)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.1)
    return module


def attached_loss(
    backbone: Backbone, asked: AskedImage, module: Any, layer: int, **policy: Any
) -> torch.Tensor:
    """What the attached model gives for the same rows with labels."""
    n = len(asked.ids_nS)
    handle = blink.attach(
        backbone, answer_policy(layer, **policy), None if module is None else {layer: module}
    )
    assert asked.image is not None
    pixels = {name: value.repeat(n, *[1] * (value.dim() - 1)) for name, value in asked.pixels.items()}
    if "image_grid_thw" in pixels:  # of which the stock model makes positions
        pixels["mm_token_type_ids"] = (asked.ids_nS == backbone.image_token_id).long()
    try:
        with handle.pictures([asked.image] * n):
            loss: torch.Tensor = backbone.model(
                input_ids=asked.ids_nS,
                attention_mask=asked.valid_nS.long(),
                labels=asked.labels_nS,
                **pixels,
            ).loss
        assert [event.action for row in handle.trace for event in row] == ["expand"] * n
    finally:
        handle.detach()
    return loss


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_attach(kind: str) -> None:
    """Would catch a region that the answer has a say in, labels off by one, and a gradient that is cut or leaks."""
    backbone, asked = made()
    module = moved(kind)
    for policy in ({"positions": "append"}, {"positions": "region", "patches": 3}):
        found = answer_losses(backbone, [asked], {1: module}, **policy)[1]
        mean = found
        wanted = attached_loss(backbone, asked, module, 1, **policy)
        torch.testing.assert_close(mean, wanted, rtol=1e-5, atol=1e-6)
        own, theirs = (torch.autograd.grad(loss, list(module.parameters())) for loss in (mean, wanted))
        for one, other in zip(own, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert not any(weight.grad is not None for weight in backbone.model.parameters())


@pytest.mark.parametrize("name", [name for name in models.SMALL if name != "llava"])
def test_loss_is_that_of_attach_in_every_family(name: str) -> None:
    """Would catch tiles, DeepStack or M-RoPE positions that a repeated picture loses."""
    backbone, asked = made(name, (120, 44))
    module = moved("residual").requires_grad_(False)
    found = answer_losses(backbone, [asked], {2: module})[2]
    wanted = attached_loss(backbone, asked, module, 2)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_layers_together_are_each_alone_and_images_count_alike() -> None:
    """Would catch layers that couple, and an image that counts more in one process than in two."""
    backbone, asked = made()
    modules = {1: moved("conv", 1), 3: None, 4: moved("residual", 2)}
    one_row = asked._replace(
        ids_nS=asked.ids_nS[1:], valid_nS=asked.valid_nS[1:], labels_nS=asked.labels_nS[1:]
    )
    together = answer_losses(backbone, [asked, one_row], modules)
    for layer, module in modules.items():
        alone = [answer_losses(backbone, [image], {layer: module})[layer] for image in (asked, one_row)]
        torch.testing.assert_close(together[layer], torch.stack(alone).mean())


def test_steps_lower_the_loss_and_leave_the_backbone_alone() -> None:
    """Would catch a gradient that points elsewhere, or reaches the frozen weights."""
    backbone, asked = made()
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    module = make_token_sr("residual", 48)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        found = answer_losses(backbone, [asked], {1: module})[1]
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(float(found.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.model.state_dict().items())
    assert all(weight.grad is None for weight in backbone.model.parameters())


@pytest.fixture
def asked_pictures(tmp_path: Path) -> Path:
    """A file of questions about ten pictures, beside these; of two pictures there are none."""
    rows = []
    for seed in range(12):
        models.picture(seed, (48, 48)).save(tmp_path / f"{seed}.png")
        if seed < 10:
            rows.append({"image": f"{seed}.png", "question": "how many are there", "answer": "the red"})
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "asked.jsonl"


@pytest.mark.usefixtures("in_empty_folder")
def test_a_killed_run_ends_like_one_that_was_not(
    llava_folder: Path, asked_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch questions in another order after a restart, and a folder that does not say what was minimised."""
    overrides = [
        *common(llava_folder, asked_pictures),
        "layer=[1,2]",
        "objective=both",
        "objective.answer=0.5",
        "positions=region",
        "epochs=2",
        "held_out=2",
        "token_sr.kind=residual",
    ]
    whole = run(*overrides, "outputs=whole")
    step = TokenSRTraining.training_step
    killed: list[int] = []

    def dying(self: TokenSRTraining, *arguments: Any) -> torch.Tensor:
        if self.trainer.global_step == 6 and not killed:
            killed.append(6)
            raise RuntimeError("killed")
        return step(self, *arguments)

    monkeypatch.setattr(TokenSRTraining, "training_step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        run(*overrides)
    continued = run(*overrides)
    assert continued.layers == whole.layers
    assert {"answer_token_sr", "answer_interpolation"} <= whole.layers["1"].keys()
    folder = folder_of(*overrides) / "token_sr"
    same_weights(folder, Path("whole") / folder.relative_to("outputs"))
    config = token_sr_config(folder)
    assert (config.objective, config.kind) == ("kl + 0.5 answer", "residual")
    assert config.settings["positions"] == "region"


@pytest.mark.usefixtures("in_empty_folder")
@pytest.mark.parametrize("kind", ["conditioned", "attention"])
def test_answers_alone_train_every_kind(llava_folder: Path, asked_pictures: Path, kind: str) -> None:
    """Would catch views or crops that are missing where KL has no weight, and layers above that are not loaded."""
    overrides = [*common(llava_folder, asked_pictures), "layer=1", "objective=answer", "held_out=1"]
    summary = run(*overrides, f"token_sr.kind={kind}")
    assert summary.steps == 4
    folder = folder_of(*overrides, f"token_sr.kind={kind}") / "token_sr"
    assert token_sr_config(folder).objective == "answer"
    model = load_backbone(llava_folder).model
    handle = blink.attach(model, blink.Policy([1], 0, 0), folder)
    model(**models.batch(model, [0]))
    assert handle.trace[0][0].action == "expand"
