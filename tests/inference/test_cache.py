"""The cache's bookkeeping: lengths per layer and row, and what beams do to them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from blink.inference.cache import BlinkCache, Piece
from blink.inference.calls.prompt_spans import find_spans
from blink.inference.policy import Event
from blink.inference.spans import Placement


def tokens(rows: int, columns: int, first: float) -> Tensor:
    """Keys [rows, 1, columns, 1], counted from `first`."""
    return first + torch.arange(float(rows * columns)).view(rows, 1, columns, 1)


def filled() -> BlinkCache:
    """Three rows of 4 columns, row 0 padded by one; at layer 1 row 1 holds an extension of 2."""
    ids = torch.tensor([[0, 9, 9, 5], [1, 9, 9, 5], [1, 9, 9, 5]])
    valid = ids != 0
    spans = replace(find_spans(ids, valid, 9), grids=((1, 2),) * 3)
    cache = BlinkCache()
    keys = tokens(3, 4, 0)
    cache.store([Piece([0, 1, 2], keys, -keys, spans)])
    short, long = tokens(2, 4, 100), tokens(1, 6, 200)
    cache.store(
        [
            Piece([0, 2], short, -short, spans.select([0, 2])),
            Piece([1], long, -long, spans.select([1]).extended([Placement((1, 2))])),
        ]
    )
    cache.store([Piece([0, 1, 2], keys, -keys, spans)])
    cache.finish_prompt(spans, [[Event(1, 0.5, row, "expand")] for row in range(3)])
    return cache


def test_rows_of_different_lengths() -> None:
    """Catches rows out of order, padding that is visible, or positions counted over padding."""
    cache = filled()
    assert isinstance(cache, DynamicCache)
    assert cache.layers[1].keys[:, 0, :, 0].tolist() == [
        [0, 0, 100, 101, 102, 103],
        [200, 201, 202, 203, 204, 205],
        [0, 0, 104, 105, 106, 107],
    ]
    assert torch.equal(cache.layers[1].values, -cache.layers[1].keys)
    layout = cache.key_layouts[cache.layout_of_layer[1]]
    assert layout.valid_BM is not None
    assert layout.valid_BM.int().tolist() == [[0, 0, 0, 1, 1, 1], [1] * 6, [0, 0, 1, 1, 1, 1]]
    assert layout.next_B.tolist() == [3, 6, 4]


def test_layers_of_one_layout_share_it() -> None:
    """Catches one mask per layer and step of decoding."""
    assert filled().layout_of_layer == [0, 1, 0]


def test_length_is_the_inputs() -> None:
    """Catches generate sizing its loop by an extension."""
    cache = filled()
    assert [cache.get_seq_length(layer) for layer in range(3)] == [4, 4, 4]
    assert BlinkCache().get_seq_length() == 0


def test_beams_take_everything_along() -> None:
    """Catches keys that are reordered without their lengths, masks or events."""
    cache = filled()
    cache.reorder_cache(torch.tensor([1, 1, 0]))
    assert cache.layers[1].keys[:, 0, 2, 0].tolist() == [202, 202, 100]
    layout = cache.key_layouts[1]
    assert layout.next_B.tolist() == [6, 6, 3]
    assert layout.valid_BM is not None
    assert layout.valid_BM[:, 0].tolist() == [True, True, False]
    assert cache.valid_BS is not None
    assert cache.valid_BS[:, 0].tolist() == [True, True, False]
    assert [events[0].region for events in cache.events] == [1, 1, 0]


def test_repeat_and_select() -> None:
    """Catches rows repeated as a whole batch instead of one by one, and boolean selections."""
    cache = filled()
    cache.batch_repeat_interleave(2)
    assert [events[0].region for events in cache.events] == [0, 0, 1, 1, 2, 2]
    assert cache.key_layouts[1].next_B.tolist() == [3, 3, 6, 6, 4, 4]
    assert len(cache.layers[0].keys) == 6
    cache.batch_select_indices(torch.tensor([False, False, False, True, True, False]))
    assert [events[0].region for events in cache.events] == [1, 2]
    assert cache.key_layouts[0].next_B.tolist() == [4, 4]


def test_crop_stops_at_the_prompt() -> None:
    """Catches a rollback into a prompt whose actions cannot be taken back."""
    cache = filled()
    for layer in range(3):
        cache.update(tokens(3, 2, 0), tokens(3, 2, 0), layer)
    cache.generated = 2
    cache.crop(-1)
    assert cache.get_seq_length() == 5
    assert [layer.keys.shape[2] for layer in cache.layers] == [5, 7, 5]
    with pytest.raises(ValueError, match="only 1 were generated"):
        cache.crop(-2)


def test_reset() -> None:
    """Catches a cache that keeps the events of its former life."""
    cache = filled()
    cache.reset()
    assert cache.get_seq_length() == 0
    assert not cache.events
    assert not cache.layers
    assert not cache.key_layouts


def test_a_stock_model_is_turned_away() -> None:
    """Catches a detached model that decodes on with masks that fit layer 0 only."""
    with pytest.raises(ValueError, match="attach"):
        filled().get_mask_sizes(1, 0)
