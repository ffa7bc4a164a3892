"""TokenSR, cutting and resizing regions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blink.model.token_sr import (
    TokenSR,
    check_modules,
    check_patches,
    cut_region,
    expand,
    placed,
    region_box,
)


class Flip(nn.Module):
    """Turns the grid upside down."""

    def forward(self, tokens_BdHW: Tensor) -> Tensor:
        return tokens_BdHW.flip(2)


def test_paper_shape() -> None:
    """Catches other widths or kernels than App. A.1's."""
    with torch.device("meta"):
        module = TokenSR(4096)
    shapes = [tuple(weight.shape) for name, weight in module.named_parameters() if name.endswith("weight")]
    assert shapes == [(2048, 4096, 5, 5), (1024, 2048, 3, 3), (4096, 1024, 1, 1)]


def test_keeps_any_grid_and_clips_between_convolutions_only() -> None:
    """Catches padding that shrinks the grid, and a ReLU after the last convolution."""
    torch.manual_seed(0)
    module = TokenSR(8)
    out = module(torch.randn(2, 8, 3, 5))
    assert out.shape == (2, 8, 3, 5)
    assert out.min() < 0
    first, second, third = module.convolutions
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(module(x), third(second(first(x).relu()).relu()))


def test_zeros_lie_beyond_the_grid() -> None:
    """Catches other padding: a kernel of ones counts 3 x 3 neighbours in a corner, 5 x 5 within."""
    module = TokenSR(1, hidden=(1, 1))
    with torch.no_grad():
        for weights in module.parameters():
            weights.fill_(1.0 if weights.ndim == 4 else 0.0)
        middle = module.get_parameter("convolutions.1.weight")
        middle.zero_()
        middle[..., 1, 1] = 1
    out_HW = module(torch.ones(1, 1, 5, 5))[0, 0]
    assert (out_HW[0, 0], out_HW[2, 2]) == (9, 25)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernels": (4, 3, 1)},
        {"kernels": (3, 1)},
        {"hidden": (4, 0)},
        {"channels": 2},
        {"kernels": "531"},
        {"kernels": 5},
        {"hidden": (4.0, 2)},
        {"hidden": [True, 2]},
        {"channels": "8"},
        {"channels": 8.0},
        {"channels": True},
    ],
    ids=str,
)
def test_refuses_shapes_that_do_not_work(settings: dict[str, Any]) -> None:
    """Catches even kernels, which cannot pad symmetrically, and widths of zero."""
    with pytest.raises(ValueError, match=r"kernel|width|hidden"):
        TokenSR(**{"channels": 8, **settings})


def test_numbers_of_numpy_are_numbers() -> None:
    """Catches widths out of an array that are refused, or kept as they are, which JSON cannot write."""
    settings: dict[str, Any] = {"hidden": np.array([4, 2]), "kernels": np.array([3, 3, 1])}
    module = TokenSR(**{"channels": np.int64(8), **settings})
    numbers = (module.channels, *module.hidden, *module.kernels)
    assert numbers == (8, 4, 2, 3, 3, 1)
    assert {type(number) for number in numbers} == {int}


def test_cut_region_by_hand() -> None:
    """Catches columns for rows, and one sample's region used for all."""
    visual_BdHW = torch.arange(24.0).view(1, 1, 4, 6).expand(3, 1, 4, 6)
    cut = [cut_region(visual_BdHW, region, 2)[2, 0].tolist() for region in range(3)]
    assert cut == [
        [[0, 1, 2], [6, 7, 8]],
        [[3, 4, 5], [9, 10, 11]],
        [[12, 13, 14], [18, 19, 20]],
    ]


def test_regions_of_an_uneven_grid() -> None:
    """Catches cells that no region holds, or two do: sides are cut at floor(i n / p), so sizes differ by one at most."""
    assert [region_box(region, 2, (27, 27)) for region in range(4)] == [
        (0, 0, 13, 13),
        (0, 13, 13, 14),
        (13, 0, 14, 13),
        (13, 13, 14, 14),
    ]
    for patches, grid in ((3, (7, 5)), (4, (27, 9)), (5, (5, 5))):
        cells = torch.arange(float(grid[0] * grid[1])).view(1, 1, *grid)
        parts = [cut_region(cells, region, patches).flatten().tolist() for region in range(patches**2)]
        assert sorted(cell for part in parts for cell in part) == list(range(grid[0] * grid[1]))


def test_uneven_regions_are_resized_each_from_its_own_size() -> None:
    """Catches a region that takes another's size, and tokens of one sample in another's place."""
    visual_BVd = torch.randn(3, 15, 4)  # 3 x 5
    tokens = expand(visual_BVd, [3, 0, 3], (3, 5), 2, interpolate=False)
    assert [len(one) for one in tokens] == [6, 2, 6]
    assert torch.equal(tokens[1], visual_BVd[1, [0, 1]])
    assert torch.equal(tokens[2], visual_BVd[2, [7, 8, 9, 12, 13, 14]])
    grown = expand(visual_BVd, [3, 0, 3], (3, 5), 2)
    for row, region in enumerate([3, 0, 3]):
        torch.testing.assert_close(grown[row], expand(visual_BVd[row : row + 1], [region], (3, 5), 2)[0])


def test_expand_interpolates_then_refines_then_flattens() -> None:
    """Catches TokenSR before the resize, column-major tokens, and corners that are aligned."""
    visual_BVd = torch.tensor([0.0, 4, 0, 0] + [0] * 12).view(
        1, 16, 1
    )  # 4 x 4, region 0 holds [[0, 4], [0, 0]]
    [plain] = expand(visual_BVd, [0], (4, 4), 2)
    line = torch.tensor([0.0, 1, 3, 4])  # 2 -> 4 samples, corners not aligned
    fade = torch.tensor([1.0, 0.75, 0.25, 0])
    torch.testing.assert_close(plain.view(4, 4), fade[:, None] * line[None])
    [flipped] = expand(visual_BVd, [0], (4, 4), 2, module=Flip())
    torch.testing.assert_close(flipped.view(4, 4), plain.view(4, 4).flip(0))


def test_expand_without_interpolation_keeps_the_tokens() -> None:
    """Catches a resize that should not happen, or TokenSR left out of it (Table 7)."""
    visual_BVd = torch.arange(32.0).view(1, 16, 2)
    tokens = expand(visual_BVd, [3], (4, 4), 2, interpolate=False)
    assert torch.equal(tokens[0], visual_BVd[0, [10, 11, 14, 15]])
    flipped = expand(visual_BVd, [3], (4, 4), 2, interpolate=False, module=Flip())
    assert torch.equal(flipped[0], visual_BVd[0, [14, 15, 10, 11]])


def test_expand_keeps_the_dtype_and_refuses_another_shape() -> None:
    """Catches float32 extensions in a bfloat16 sequence, and modules that change the grid."""
    visual_BVd = torch.randn(1, 16, 2).bfloat16()
    assert expand(visual_BVd, [0], (4, 4), 2)[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="keep the shape"):
        expand(visual_BVd, [0], (4, 4), 2, module=nn.AvgPool2d(2))


def test_check_patches() -> None:
    """Catches regions without a cell; the message names what fits."""
    check_patches(5, (12, 24))
    check_patches(3, (3, 4))
    with pytest.raises(ValueError, match="use a number from 2 to 3"):
        check_patches(4, (3, 4))
    with pytest.raises(ValueError, match=r"row 2: the 1 x 20 grid .* too narrow"):
        check_patches(2, (1, 20), "row 2: ")


def test_check_modules() -> None:
    """Catches a scanned layer that would silently go without its module."""
    check_modules({1: TokenSR(8), 2: Flip()}, [1, 2], 8, "x")
    with pytest.raises(ValueError, match=r"\[3\]"):
        check_modules({1: TokenSR(8)}, [1, 3], 8, "x")
    with pytest.raises(ValueError, match="8 channels"):
        check_modules({1: TokenSR(8)}, [1], 16, "x")
    check_modules({np.int64(1): TokenSR(8), 2: None}, [1], 8, "x")  # layer 2 is not scanned
    with pytest.raises(ValueError, match=r"token_sr of layer 2 is None; expected a torch\.nn\.Module"):
        check_modules({1: TokenSR(8), 2: None}, [1, 2], 8, "x")
    with pytest.raises(ValueError, match=r"token_sr of layer 1 is <function.*expected a torch\.nn\.Module"):
        check_modules({1: lambda x: x}, [1], 8, "x")
    for key in ("1", -1, True, 1.5):
        with pytest.raises(ValueError, match=r"names layers .*whole numbers from 0"):
            check_modules({key: TokenSR(8)}, [1], 8, "x")


@pytest.mark.parametrize("made", [None, (torch.zeros(1),), np.zeros(1)])
def test_expand_refuses_what_is_no_tensor(made: Any) -> None:
    """Catches an AttributeError where a module returns a tuple, as many of transformers' do, or forgets to return."""

    class Module(nn.Module):
        def forward(self, tokens_BdHW: Tensor) -> Any:
            return made

    with pytest.raises(
        ValueError, match=rf"\(Module\) made a {type(made).__name__} of .*must return a tensor"
    ):
        expand(torch.zeros(1, 16, 8), [0], (4, 4), 2, module=Module())


def test_placed_refuses_an_offloaded_model() -> None:
    """Catches a module that is copied to where nothing is computed, which gives garbage in silence."""
    with pytest.raises(ValueError, match=r"meta device.*cpu_offload"):
        placed(TokenSR(8), torch.device("meta"), torch.float32)


def test_placed_copies_only_what_must_be_cast() -> None:
    """Catches a user's module that changes its dtype behind their back."""
    module = TokenSR(8)
    assert placed(module, torch.device("cpu"), torch.float32) is module
    with pytest.warns(UserWarning, match="weights require grad is not torch.bfloat16.*get no gradient"):
        placed(module, torch.device("cpu"), torch.bfloat16)
    module.requires_grad_(False)
    cast = placed(module, torch.device("cpu"), torch.bfloat16)
    assert cast is not module
    assert next(cast.parameters()).dtype == torch.bfloat16
    assert next(module.parameters()).dtype == torch.float32
    assert isinstance(placed(Flip(), torch.device("cpu"), torch.bfloat16), Flip)
