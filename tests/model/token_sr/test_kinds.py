"""What holds for every design of TokenSR."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blink.model.token_sr import KINDS, Box, Context, Design, expand, make_token_sr, module_cost
from blink.model.token_sr.files import check_token_sr, load_token_sr, save_token_sr, token_sr_config

SIZES: dict[str, dict[str, Any]] = {
    "conv": {"hidden": (6, 4), "kernels": (3, 3, 1)},
    "residual": {"hidden": (6,), "kernels": (3, 1)},
    "mlp": {"hidden": (6, 5)},
    "attention": {"hidden": (6,), "heads": 3},
    "conditioned": {"hidden": (6, 4), "kernels": (1, 3, 1)},
}


def made(kind: str, seed: int = 0) -> Design:
    """A design with random weights, zeroed ones included."""
    torch.manual_seed(seed)
    module = make_token_sr(kind, 8, SIZES[kind])
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.3)
    return module


def given(grid: tuple[int, int], rows: int = 2) -> tuple[torch.Tensor, Context]:
    """Tokens of a resized region, and what surrounds it."""
    torch.manual_seed(1)
    tokens, visual, crop = torch.randn(3, rows, 8, *grid)
    return tokens, Context(visual, [Box(0, 0, 2, 2), Box(1, 2, 2, 1)][:rows], crop)


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_shape_and_dtype_and_trains_all_its_weights(kind: str) -> None:
    """Would catch a weight that nothing reaches, which DDP refuses, and float32 that comes of bfloat16."""
    module = made(kind)
    tokens, context = given((4, 3))
    refined = module(tokens, context) if module.needs_context else module(tokens)
    assert refined.shape == tokens.shape
    refined.square().sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in module.parameters())
    module = module.bfloat16()
    context = Context(context.visual_BdGg.bfloat16(), context.boxes, tokens.bfloat16())
    assert module(tokens.bfloat16(), context).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "conv"])
def test_begins_at_interpolation(kind: str) -> None:
    """Would catch a correction that is not zero before training, and a fresh module that cannot leave zero."""
    module = make_token_sr(kind, 8)
    tokens, context = given((4, 4))
    refined = module(tokens, context)
    assert torch.equal(refined, tokens)
    (refined - 1).square().sum().backward()
    assert any(weight.grad is not None and bool(weight.grad.any()) for weight in module.parameters())


@pytest.mark.parametrize("kind", ["mlp", "attention", "conditioned"])
def test_a_correction_grows_with_the_hidden_states(kind: str) -> None:
    """Would catch a design that works at one layer only: states grow by orders of magnitude from layer to layer."""
    module = made(kind)
    tokens, context = given((4, 4))
    louder = Context(context.visual_BdGg * 50, context.boxes, context.crop_BdHW)
    once, again = module(tokens, context), module(tokens * 50, louder)
    torch.testing.assert_close(again, once * 50, rtol=1e-4, atol=1e-3)


def test_rows_do_not_mix() -> None:
    """Would catch a box, a picture or a crop of another row."""
    for kind in ("attention", "conditioned"):
        module = made(kind)
        tokens, context = given((4, 3))
        together = module(tokens, context)
        for row in range(2):
            assert context.crop_BdHW is not None
            own = Context(
                context.visual_BdGg[row : row + 1],
                context.boxes[row : row + 1],
                context.crop_BdHW[row : row + 1],
            )
            torch.testing.assert_close(module(tokens[row : row + 1], own)[0], together[row])


def test_attention_knows_where_its_region_lies() -> None:
    """Would catch positions that are left out, or those of the fine grid in place of the picture's."""
    module = made("attention")
    tokens, context = given((4, 4), rows=1)
    elsewhere = context._replace(boxes=[Box(2, 2, 2, 2)])
    assert not torch.allclose(module(tokens, context), module(tokens, elsewhere), atol=1e-3)
    other = torch.randn(1, 8, 4, 4)
    assert not torch.allclose(
        module(tokens, context), module(tokens, context._replace(visual_BdGg=other)), atol=1e-3
    )


def test_conditioned_sees_the_crop() -> None:
    """Would catch a crop that is ignored, and one that does not fit a region that was not resized."""
    module = made("conditioned")
    tokens, context = given((4, 4), rows=1)
    other = context._replace(crop_BdHW=torch.randn(1, 8, 4, 4))
    assert not torch.allclose(module(tokens, context), module(tokens, other), atol=1e-3)
    assert module(tokens[..., :2, :2], context).shape == (1, 8, 2, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interpolate", [True, False])
def test_expand_takes_every_kind(kind: str, interpolate: bool) -> None:
    """Would catch rows whose regions differ in size and that get each other's surroundings or crop."""
    module = made(kind)
    visual_BVd = torch.randn(3, 15, 8)  # 3 x 5
    crops = torch.randn(3, 15, 8)
    regions = [3, 0, 3]
    tokens = expand(visual_BVd, regions, (3, 5), 2, interpolate, module, list(crops))
    for row, region in enumerate(regions):
        (alone,) = expand(visual_BVd[row : row + 1], [region], (3, 5), 2, interpolate, module, [crops[row]])
        torch.testing.assert_close(alone, tokens[row])
    if module.needs_crop:
        with pytest.raises(ValueError, match=r"ConditionedTokenSR.* needs the encoded crop"):
            expand(visual_BVd, regions, (3, 5), 2, interpolate, module)


@pytest.mark.parametrize("kind", KINDS)
def test_folders_say_what_they_hold(kind: str, tmp_path: Path) -> None:
    """Would catch a folder that is read as the paper's design, or loses a size."""
    modules = {layer: made(kind, layer) for layer in (1, 3)}
    save_token_sr(modules, tmp_path, backbone="b", objective="kl")
    config = token_sr_config(tmp_path)
    assert (config.kind, config.channels, config.sizes) == (kind, 8, SIZES[kind])
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == kind
    check_token_sr(tmp_path, channels=8)
    tokens, context = given((3, 3))
    for layer, module in load_token_sr(tmp_path).items():
        assert type(module) is KINDS[kind]
        torch.testing.assert_close(module(tokens, context), modules[layer](tokens, context))


def test_folders_of_earlier_versions_hold_the_papers_design(tmp_path: Path) -> None:
    """Would catch shipped folders, which name no kind, that can no longer be read; and a kind that nobody knows."""
    save_token_sr({1: made("conv")}, tmp_path, backbone="b")
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in config.items() if name != "kind"}))
    assert token_sr_config(tmp_path).kind == "conv"
    assert type(load_token_sr(tmp_path)[1]) is KINDS["conv"]
    for wrong in ("transformer", 3, None):
        file.write_text(json.dumps({**config, "kind": wrong}))
        with pytest.raises(ValueError, match=r"config\.json: kind=.*expected one of conv, residual"):
            load_token_sr(tmp_path)
    file.write_text(json.dumps({**config, "kind": "attention"}))
    with pytest.raises(ValueError, match="heads of the modules is missing"):
        token_sr_config(tmp_path)


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("deconv", {}, "kind='deconv': expected one of conv, residual, mlp, attention, conditioned"),
        ("mlp", {"kernels": (3, 1)}, "kind='mlp' has no kernels; it takes hidden"),
        ("conv", {"heads": 2}, "kind='conv' has no heads"),
        ("attention", {"heads": 3, "hidden": (8,)}, "heads must divide the width"),
        ("attention", {"hidden": (8, 8)}, "an attention has one width"),
        ("attention", {"heads": 0}, "heads=0"),
        ("mlp", {"hidden": (0,)}, "every width must be at least 1"),
        ("residual", {"kernels": (4, 3, 1)}, "only odd sizes"),
        ("conditioned", {"hidden": (10**12, 2)}, "a convolution of more than 1e"),
        ("mlp", {"hidden": (10**12,)}, "of more than 1e"),
    ],
)
def test_refuses_what_is_no_design(kind: str, sizes: dict[str, Any], message: str) -> None:
    """Would catch sizes that a kind does not have and that would change nothing."""
    with pytest.raises(ValueError, match=message):
        make_token_sr(kind, 8, sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_cost_is_what_runs(kind: str) -> None:
    """Would catch a count that leaves out a part of a design, its backward pass, or the crop's half of a convolution."""
    module = made(kind)
    tokens, context = given((4, 3), rows=1)
    # torch counts attention on a CPU only where it is written out
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        refined = module(tokens, context)
        forward = counter.get_total_flops()
        refined.sum().backward()
    cost = module_cost(module, 12)
    assert (cost.flops, cost.trained_flops) == (forward, counter.get_total_flops())
    assert cost.weights == sum(weight.numel() for weight in module.parameters() if weight.dim() > 1)
    with torch.inference_mode():
        assert module_cost(module, 12) == cost
