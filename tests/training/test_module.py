"""Training: the pairs against the stock model, layers in company against layers alone, and the frozen rest."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch.nn import functional as F
from torchmetrics import MeanMetric

from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone, load_input_norms
from blink.model.views import ViewMaker, join_views, quadrants
from blink.training.data import PairData
from blink.training.images import DrawnImages
from blink.training.module import TokenSRTraining, seeded_token_sr
from blink.training.objective import token_kl
from tests import models

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]

PREFIX = "The human questions. USER: "
GRID = 6


def drawn(count: int, first: int = 0) -> DrawnImages:
    pictures = [models.picture(seed, (48, 48)) for seed in range(first, first + count)]
    return DrawnImages(pictures, "pictures", first)


def training(folder: Path, layers: Sequence[int], **settings: Any) -> TokenSRTraining:
    """A module over a backbone that holds the layers below max(layers) only."""
    loaded = load_backbone(folder, num_layers=max(layers))
    return TokenSRTraining(loaded, layers, **settings)


def maker(folder: Path) -> ViewMaker:
    """Makes views for a backbone in `folder`."""
    return ViewMaker(load_backbone(folder, num_layers=0).processor, PREFIX, (GRID, GRID))


def fit(folder: Path, module: TokenSRTraining, root: Path, steps: int = 4, **settings: Any) -> Trainer:
    data = PairData(drawn(2 * steps), drawn(2, first=100), maker(folder), seed=3)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=root,
        **settings,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def weights(module: TokenSRTraining, layer: int) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.token_sr[str(layer)].state_dict().items()}


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_pairs_are_states_of_full_prompts(family: str, tmp_path: Path) -> None:
    """Catches a wrong layer, region, span or resize, and a teacher that depends on the text or on tiles.

    The stock model runs whole prompts with a question after the image (for LLaVA-NeXT with all tiles of a wide
    picture); the visual states that enter layer 2 are the same.
    """
    model = getattr(models, family)(grid=GRID, layers=4, hidden=32)
    processor = models.processor(model)
    picture = models.picture(7, (96, 48))
    wide = [picture, *quadrants(picture, (GRID, GRID))]
    prompt = models.prompt(1, system="The human questions.")
    states = []
    for image in wide:
        inputs = processor(images=image, text=prompt, return_tensors="pt")
        with torch.no_grad():
            hidden_BSd = model(**inputs, output_hidden_states=True).hidden_states[2]
        first = inputs["input_ids"][0].tolist().index(model.config.image_token_id)
        states.append(hidden_BSd[0, first : first + GRID * GRID].T.unflatten(1, (GRID, GRID)))
    half = GRID // 2
    expected_student = F.interpolate(states[0][None, :, half:, :half], size=(GRID, GRID), mode="bilinear")

    module = TokenSRTraining(Backbone(model), [1, 2])
    make = ViewMaker(processor, PREFIX, (GRID, GRID))
    batch = join_views([make(picture), make(models.picture(8, (48, 96)))])
    features = module.quadrant_features(batch)[0][2]
    student, teacher = features.interpolated_NdHW, features.teacher_NdHW
    assert student.shape == teacher.shape == features.refined_NdHW.shape == (8, 32, GRID, GRID)
    torch.testing.assert_close(features.coarse[2], states[0][:, half:, :half], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.refined_NdHW, module.token_sr["2"](student))
    torch.testing.assert_close(student[2], expected_student[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher[:4], torch.stack(states[1:]), atol=1e-5, rtol=1e-5)
    assert not student.requires_grad
    assert not teacher.requires_grad


@pytest.mark.parametrize("clip", [None, 0.02])
def test_trained_together_equals_trained_alone(
    llava_folder: Path, tmp_path: Path, clip: float | None
) -> None:
    """Catches layers that share random numbers, a loss mean, or one clipping norm (1e-6 relative, float32)."""
    together = training(llava_folder, [1, 2, 3], seed=5, learning_rate=1e-2)
    start = {layer: weights(together, layer) for layer in (1, 2, 3)}
    fit(llava_folder, together, tmp_path, gradient_clip_val=clip)
    for layer in (1, 3):
        alone = training(llava_folder, [layer], seed=5, learning_rate=1e-2)
        fit(llava_folder, alone, tmp_path, gradient_clip_val=clip)
        for name, value in weights(alone, layer).items():
            torch.testing.assert_close(weights(together, layer)[name], value, rtol=1e-6, atol=0)
            assert not torch.equal(value, start[layer][name])


def test_each_layer_is_clipped_by_itself(llava_folder: Path, tmp_path: Path) -> None:
    """Catches one norm over all layers, and a clipping value that never reaches the gradients."""
    norms: dict[str, list[float]] = {"1": [], "3": []}

    class Recorded(TokenSRTraining):
        def on_train_batch_end(self, *_: Any) -> None:
            for layer, module in self.token_sr.items():
                gradients = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
                norms[layer].append(gradients.norm().item())

    loaded = load_backbone(llava_folder, num_layers=3)
    module = Recorded(loaded, [1, 3])
    fit(llava_folder, module, tmp_path, gradient_clip_val=0.02)
    assert norms["1"] == pytest.approx([0.02] * 4, rel=1e-3)
    assert norms["3"] == pytest.approx([0.02] * 4, rel=1e-3)


def test_only_token_sr_is_trained_and_kept(llava_folder: Path, tmp_path: Path) -> None:
    """Catches a backbone that changes, receives gradients, is optimised, or is written into checkpoints."""
    module = training(llava_folder, [2])
    before = {name: value.clone() for name, value in module.backbone.model.state_dict().items()}
    trainer = fit(llava_folder, module, tmp_path)
    after = module.backbone.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None and not p.requires_grad for p in module.backbone.model.parameters())
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(p) for p in module.token_sr.parameters()}
    assert all(name.startswith("token_sr.2.") for name in module.state_dict())
    assert module.backbone.num_layers == 2


def test_rate_warms_up_and_falls_to_zero(llava_folder: Path, tmp_path: Path) -> None:
    """Catches a schedule stepped per epoch, a warm-up rounded down, and a cosine that ends above 0.

    Of 10 steps ceil(0.15 * 10) = 2 warm up; then 1e-2 * (1 + cos(pi * k / 8)) / 2.
    """
    rates: list[float] = []

    class Recorded(TokenSRTraining):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    loaded = load_backbone(llava_folder, num_layers=1)
    module = Recorded(loaded, [1], learning_rate=1e-2, warmup=0.15)
    trainer = fit(llava_folder, module, tmp_path, steps=10)
    expected = [0, 5e-3] + [1e-2 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates == pytest.approx(expected, abs=1e-9)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_it_learns(llava_folder: Path, tmp_path: Path) -> None:
    """Catches a loss that does not reach the weights in the right direction."""
    module = training(llava_folder, [1], learning_rate=3e-3)
    make = maker(llava_folder)
    batch = join_views([make(models.picture(seed, (48, 48))) for seed in (0, 1)])

    def loss() -> float:
        with torch.no_grad():
            features = module.quadrant_features(batch)[0][1]
        return token_kl(features.refined_NdHW.movedim(1, -1), features.teacher_NdHW.movedim(1, -1)).item()

    before = loss()
    fit(llava_folder, module, tmp_path, steps=30)
    assert loss() < 0.85 * before


def test_held_out_measures_are_means_over_pairs(llava_folder: Path, tmp_path: Path) -> None:
    """Catches a mean over batches of different sizes, and measures of training images or of one student."""
    module = training(llava_folder, [2])
    trainer = fit(llava_folder, module, tmp_path, steps=2)
    views = maker(llava_folder)
    held_out = drawn(3, first=50)
    data = PairData(drawn(2), held_out, views)  # batches of two and one
    (found,) = trainer.validate(module, datamodule=data, verbose=False)
    with torch.no_grad():
        features = module.quadrant_features(join_views([views(held_out.read(i)) for i in range(3)]))[0][2]
    teacher = features.teacher_NdHW
    for name, tokens in (("interpolation", features.interpolated_NdHW), ("token_sr", features.refined_NdHW)):
        expected = token_kl(tokens.movedim(1, -1), teacher.movedim(1, -1))
        assert found[f"held_out/layer_2/kl_{name}"] == pytest.approx(expected.item(), rel=1e-5)
        expected_mse = (tokens - teacher).square().mean()
        assert found[f"held_out/layer_2/mse_{name}"] == pytest.approx(expected_mse.item(), rel=1e-5)
    for name in ("kl_token_sr", "kl_interpolation"):
        assert found[f"held_out/{name}"] == found[f"held_out/layer_2/{name}"]
    assert len(found) == 8 + 3


def test_input_norm_space(llava_folder: Path) -> None:
    """Catches the norm of another layer, or one side compared without it; layer 2 itself is not loaded."""
    norms = load_input_norms(llava_folder, [2])
    module = training(llava_folder, [2], norms=norms, temperature=2.0)
    whole = load_backbone(llava_folder)
    views = maker(llava_folder)
    batch = views(models.picture(0, (48, 48)))
    norm = whole.input_norm(2)
    with torch.no_grad():
        features = module.quadrant_features(batch)[0][2]
        refined, teacher = (
            norm(part.movedim(1, -1)) for part in (features.refined_NdHW, features.teacher_NdHW)
        )
        expected = token_kl(refined, teacher, temperature=2.0)
        found = module.losses(batch)[2]
    torch.testing.assert_close(found, expected)


def test_initial_weights_follow_from_seed_and_layer() -> None:
    """Catches the same weights for two layers, and a global generator that training moves on."""
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, again, other, later = (
        seeded_token_sr("conv", 8, seed=seed, layer=layer).state_dict()["convolutions.0.weight"]
        for seed, layer in ((0, 1), (0, 1), (1, 1), (0, 2))
    )
    assert torch.rand(1) == expected
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, later)


def test_a_grid_without_quadrants_is_refused() -> None:
    """Catches training on quadrants without tokens."""
    model = models.llava(grid=1, layers=2, hidden=32)
    with pytest.raises(ValueError, match="the 1 x 1 grid of visual tokens cannot be split into 2 x 2"):
        TokenSRTraining(Backbone(model), [1])


def test_pictures_of_several_grids_are_the_mean_over_pairs() -> None:
    """Catches a mean over tokens, which large pictures dominate, over grids, or over layouts instead of pictures."""
    model = models.family("qwen2_5_vl", layers=3)
    processor = models.processor(model)
    prefix = models.prompt(0, processor=processor).partition(processor.image_token)[0]
    make = ViewMaker(processor, prefix)
    sizes = [(60, 60), (120, 44), (60, 60), (56, 88)]
    assert len({make.grid(size) for size in sizes}) == 3
    views = [make(models.picture(seed, size)) for seed, size in enumerate(sizes)]
    norms = {2: Backbone(model).input_norm(2)}
    together, alone = (TokenSRTraining(Backbone(model), [1, 2], norms=norms, seed=4) for _ in range(2))
    losses = together.losses(join_views(views))
    torch.stack(list(losses.values())).sum().backward()
    singles = [alone.losses(of_image) for of_image in views]
    for layer in (1, 2):
        mean = torch.stack([found[layer] for found in singles]).mean()
        torch.testing.assert_close(losses[layer], mean, rtol=1e-5, atol=0)
        mean.backward(retain_graph=True)
    for mine, theirs in zip(together.token_sr.parameters(), alone.token_sr.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-7)
    together.validation_step(join_views(views), 0)
    for of_image in views:
        alone.validation_step(of_image, 0)
    for name in together.measured:
        found, expected = (measured.measured[name] for measured in (together, alone))
        assert isinstance(found, MeanMetric)
        assert isinstance(expected, MeanMetric)
        torch.testing.assert_close(found.compute(), expected.compute(), rtol=1e-5, atol=1e-6)
