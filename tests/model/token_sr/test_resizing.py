"""A convolution of resized tokens, by products of the tokens before, against resizing and then convolving."""

from functools import wraps
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from blink import TokenSR
from blink.model.token_sr import Context, expand, make_token_sr, resizing, upsample
from blink.model.token_sr.base import Design, resizes
from blink.model.token_sr.resizing import ResizingConv2d

GRIDS = [((6, 6), (12, 12)), ((4, 3), (9, 7)), ((1, 5), (3, 11)), ((5, 1), (5, 2)), ((3, 3), (27, 27))]


@pytest.fixture(autouse=True)
def whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights take this way, too, in pieces."""
    monkeypatch.setattr(resizing, "_LEAST_WEIGHTS", 0)
    monkeypatch.setattr(resizing, "_CHANNELS", 3)


def plain(convolution: nn.Conv2d, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Resized in float64, and convolved by torch."""
    resized = F.interpolate(tokens.double(), size=size, mode="bilinear", align_corners=False)
    bias = None if convolution.bias is None else convolution.bias.double()
    return F.conv2d(resized, convolution.weight.double(), bias, padding=convolution.padding[0])


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize(("region", "size"), GRIDS)
def test_equals_resizing_and_then_convolving(
    region: tuple[int, int], size: tuple[int, int], kernel: int
) -> None:
    """Would catch shifts of the wrong sign, rows taken for columns, edges that wrap, and rows of a batch that mix."""
    torch.manual_seed(0)
    convolution = ResizingConv2d(4, 7, kernel)
    tokens = torch.randn(2, 4, *region)
    want = plain(convolution, tokens, size)
    torch.testing.assert_close(convolution(tokens, size).double(), want, rtol=1e-5, atol=2e-6)
    lying = tokens.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(convolution(lying, size).double(), want, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(convolution(upsample(tokens, size)).double(), want, rtol=1e-5, atol=2e-6)


def test_bfloat16_is_as_near_as_torchs() -> None:
    """Would catch sums over taps that are rounded one by one."""
    torch.manual_seed(0)
    convolution = ResizingConv2d(64, 32, 5).bfloat16()
    tokens = torch.randn(2, 64, 6, 6).bfloat16()
    want = plain(convolution, tokens, (12, 12))
    ours, theirs = convolution(tokens, (12, 12)), convolution(upsample(tokens, (12, 12)))
    assert ours.dtype == torch.bfloat16
    assert (ours - want).square().mean() < 1.2 * (theirs - want).square().mean()


def test_gradients_are_those_of_the_plain_way() -> None:
    """Would catch weights, a bias or tokens that training no longer reaches."""
    torch.manual_seed(0)
    convolution = ResizingConv2d(4, 7, 3)
    tokens = torch.randn(2, 4, 4, 3, requires_grad=True)
    found = []
    for way in (convolution(tokens, (9, 7)), convolution(upsample(tokens, (9, 7)))):
        given = (tokens, *convolution.parameters())
        found.append(torch.autograd.grad(way.square().sum(), given))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["conv", "residual"])
@pytest.mark.parametrize("patches", [2, 3])
def test_expand_is_the_same_and_takes_fewer_products(kind: str, patches: int) -> None:
    """Would catch a design that resizes twice or not at all, and one that is not told to resize."""
    torch.manual_seed(0)
    module = make_token_sr(kind, 8, {"hidden": (6, 4), "kernels": (5, 3, 1)})
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.3)
    visual_BVd, regions = torch.randn(3, 35, 8), [0, 3, 3]  # 7 x 5
    with FlopCounterMode(display=False) as few:
        ours = expand(visual_BVd, regions, (7, 5), patches, True, module)
    watch = module.register_forward_hook(lambda *_: None)  # somebody looks: it is given resized tokens
    with FlopCounterMode(display=False) as many:
        theirs = expand(visual_BVd, regions, (7, 5), patches, True, module)
    watch.remove()
    assert few.get_total_flops() < 0.8 * many.get_total_flops()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


class Halved(TokenSR):
    """A subclass that knows of no sizes."""

    def forward(self, tokens_BdHW: Tensor, context: Any = None) -> Tensor:  # type: ignore[override]
        return super().forward(tokens_BdHW) / 2


def seen_by(module: nn.Module) -> list[tuple[int, ...]]:
    """Shapes that a module is called with, patched for good."""
    shapes: list[tuple[int, ...]] = []
    own = module.forward

    def forward(tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shapes.append((*tokens.shape,))
        refined: Tensor = own(tokens, *args, **kwargs)
        return refined

    module.forward = forward
    return shapes


@pytest.mark.parametrize("part", ["", "convolutions.0"])
def test_whoever_looks_sees_resized_tokens(part: str) -> None:
    """Would catch a hook or a patch of somebody's that is given the region, or a size that it does not know."""
    torch.manual_seed(0)
    visual_BVd = torch.randn(1, 16, 8)
    whole = TokenSR(8)
    module = whole.get_submodule(part)
    (want,) = expand(visual_BVd, [2], (4, 4), 2, True, whole)
    shapes: list[tuple[int, ...]] = []
    watches = (
        lambda: module.register_forward_pre_hook(lambda _, args: shapes.append((*args[0].shape,))),
        lambda: module.register_forward_hook(lambda _, args, __: shapes.append((*args[0].shape,))),
    )
    for watch in watches:
        with watch():
            expand(visual_BVd, [2], (4, 4), 2, True, whole)
    patched = seen_by(module)
    (got,) = expand(visual_BVd, [2], (4, 4), 2, True, whole)
    assert [*shapes, *patched] == [(1, 8, 4, 4)] * 3
    torch.testing.assert_close(got, want)


class HalvedInside(TokenSR):
    """A subclass whose convolutions know of no sizes."""

    def convolve(self, tokens_BcHW: Tensor) -> Tensor:  # type: ignore[override]
        return super().convolve(tokens_BcHW) / 2


def test_a_subclass_and_a_convolution_of_somebodys() -> None:
    """Would catch a size that is given to what knows of none."""
    torch.manual_seed(0)
    visual_BVd = torch.randn(1, 16, 8)
    module = TokenSR(8)
    (want,) = expand(visual_BVd, [2], (4, 4), 2, True, module)
    for half in (Halved(8), HalvedInside(8)):
        half.load_state_dict(module.state_dict())
        (got,) = expand(visual_BVd, [2], (4, 4), 2, True, half)
        torch.testing.assert_close(2 * got, want)
    other = nn.Conv2d(8, 4, 5, padding=2)
    other.load_state_dict(module.convolutions[0].state_dict())
    module.convolutions[0] = other
    (got,) = expand(visual_BVd, [2], (4, 4), 2, True, module)
    torch.testing.assert_close(got, want)


def test_whether_a_design_resizes() -> None:
    """Would catch a subclass or a mixin that is given a size which its own forward does not take."""

    class Same(TokenSR):
        pass

    class Halving:
        forward = Halved.forward

    class Mixed(Halving, TokenSR):  # type: ignore[misc]
        pass

    class Own(Design):
        kind, size_names = "own", ()

        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, tokens_BdHW: Tensor, context: Context | None = None) -> Tensor:
            return tokens_BdHW

    class Others(nn.Module):
        def forward(self, tokens: Tensor, size: int = 3) -> Tensor:
            return tokens

    designs = [TokenSR(8), Same(8), Halved(8), HalvedInside(8), Mixed(8), Own(8), Others()]
    assert [resizes(design) for design in designs] == [True, True, False, False, False, False, False]


@pytest.mark.parametrize("method", ["forward", "convolve"])
@pytest.mark.parametrize("of_class", [True, False])
@pytest.mark.parametrize("narrow", [True, False])
def test_a_patch_of_the_class_or_the_module(
    monkeypatch: pytest.MonkeyPatch, method: str, of_class: bool, narrow: bool
) -> None:
    """Would catch a size that is given to somebody's patch, which may say by `wraps` that it is the method itself."""
    visual_BVd, module = torch.randn(1, 16, 8), TokenSR(8)
    (want,) = expand(visual_BVd, [2], (4, 4), 2, True, module)
    own: Any = getattr(TokenSR, method)
    calls: list[tuple[Any, ...]] = []

    @wraps(own)
    def takes_all(self: TokenSR, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((tuple(tokens.shape), args, kwargs))
        return own(self, tokens, *args, **kwargs)

    @wraps(own)
    def takes_one(self: TokenSR, tokens: Tensor) -> Any:
        return takes_all(self, tokens)

    patch = takes_one if narrow else takes_all
    if of_class:
        monkeypatch.setattr(TokenSR, method, patch)
    else:
        monkeypatch.setattr(module, method, MethodType(patch, module))
    (got,) = expand(visual_BVd, [2], (4, 4), 2, True, module)
    assert calls == [((1, 8, 4, 4), (), {})]
    torch.testing.assert_close(got, want)


def test_a_method_without_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a method in place of which stands a builtin, which tells Python nothing of its arguments."""
    visual_BVd, module = torch.randn(1, 16, 8), TokenSR(8)
    monkeypatch.setattr(TokenSR, "forward", torch.relu)
    (got,) = expand(visual_BVd, [2], (4, 4), 2, True, module)
    (want,) = expand(visual_BVd, [2], (4, 4), 2, True, nn.ReLU())
    torch.testing.assert_close(got, want)


class Counted(nn.Module):
    """A parametrization that changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight


@pytest.mark.parametrize("least", [0, 2**20])
def test_a_parametrized_weight_is_made_once(monkeypatch: pytest.MonkeyPatch, least: int) -> None:
    """Would catch a spectral norm that takes two steps of its iteration in a call, and the time of a second weight."""
    monkeypatch.setattr(resizing, "_LEAST_WEIGHTS", least)
    convolution, counted, tokens = ResizingConv2d(4, 7, 3), Counted(), torch.randn(1, 4, 2, 2)
    want = convolution(tokens, (4, 4))
    parametrize.register_parametrization(convolution, "weight", counted, unsafe=True)
    counted.calls = 0
    torch.testing.assert_close(convolution(tokens, (4, 4)), want)
    assert counted.calls == 1


def test_autocast_and_small_weights_go_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch products in half precision that are summed as they are, and small modules that become slower."""
    convolution, tokens = ResizingConv2d(4, 7, 3), torch.randn(1, 4, 2, 2)
    monkeypatch.setattr(ResizingConv2d, "_of_cells", lambda *_: pytest.fail("not the plain way"))
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(tokens, (4, 4)).dtype == torch.bfloat16
    monkeypatch.setattr(resizing, "_LEAST_WEIGHTS", 2**20)
    assert convolution(tokens, (4, 4)).shape == (1, 7, 4, 4)
