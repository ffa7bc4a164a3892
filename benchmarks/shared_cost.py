"""FLOPs and bytes of many questions under many policies about one picture, each distinct piece of work done once.

That is the floor of what the engine does: the vision tower and the trunk (prefix and picture); each extension from
the layer that inserts it to the last layer where a row attends to it; each text layer once per distinct history of
extensions, the last one for the last token alone; each decoding step once per distinct answer. The engine does as
much, and in attention a little more: rows that share one call of it have columns of keys that they do not see, those
of each other's text and of longer trunks and extensions. Text that it pads to the longest of a batch, rows that do
not fit into memory together, and scans of rows beside others that ask for one come on top.
Plain numbers in, plain numbers out.

Letters: T tokens of a text, X tokens of an extension.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass

from blink.evaluation.answering.cost import (
    NOTHING,
    Cost,
    decode,
    decoder_layer,
    head,
    key_value_bytes,
    projections,
    scan,
    vision,
)
from blink.inference.policy import Event, living
from blink.model.dimensions import Dimensions


@dataclass(frozen=True)
class Asked:
    """One question under one policy whose saliency is attention.

    Attributes:
        question: identifies the text; rows of one text share passes until their extensions differ.
        text: T, tokens after the image.
        events: one per scanned layer.
        answer: tokens of the answer, its closing token included.
        extension: X; None: the whole grid.
        kind: what distinguishes extensions beyond layer and region: patches, interpolate, which TokenSR.
    """

    question: Hashable
    text: int
    events: tuple[Event, ...] = ()
    answer: int = 1
    extension: int | None = None
    kind: Hashable = None


@dataclass(frozen=True)
class _Extension:
    """Visual tokens inserted at a layer; equal ones are computed once."""

    layer: int
    region: int
    columns: int
    kind: Hashable


_History = tuple[_Extension | None, ...]
"""The living extension at each layer so far."""


def shared(
    dims: Dimensions,
    before: int,
    asked: Collection[Asked],
    *,
    expander: Cost = NOTHING,
    views: int = 1,
) -> Cost:
    """Cost of answering all questions about one picture that share one prefix.

    Bytes assume that all rows run through a layer in one call: weights, and keys and values of the trunk, move once
    per call; those of the texts, which are few, are left out.

    Args:
        before: tokens of the trunk: prefix and visual tokens.
        expander: of one extension, e.g. `token_sr(dims)`; nothing for Blink-interp.
        views: pictures or tiles that the vision tower sees.
    """
    total = vision(dims, views)
    texts: set[tuple[Hashable, int, _History]] = set()
    scans: set[tuple[Hashable, int, _History]] = set()
    answers: set[tuple[Hashable, int, _History]] = set()
    changed: set[int] = set()
    last: dict[_Extension, int] = {}
    # Walk each question's events through the layers and collect distinct pieces of work in sets.
    for one in asked:
        X = dims.visual if one.extension is None else one.extension
        history: _History = ()
        actions = {event.layer: event.action for event in one.events}
        for layer, now in enumerate(living(one.events, dims.layers)):
            previous = history[-1] if history else None
            if layer in actions:
                scans.add((one.question, one.text, history))
                if actions[layer] == "expand" or (actions[layer] == "drop" and previous is not None):
                    changed.add(layer)
                if previous is not None:
                    last[previous] = max(layer, last[previous])
            alive = None if now is None else _Extension(*now, X, one.kind)
            history = (*history, alive)
            texts.add((one.question, one.text, history))
            if alive is not None:
                last[alive] = max(layer, last.get(alive, layer))
        if (one.question, one.text, history) not in answers:
            answers.add((one.question, one.text, history))
            behind = decode(dims, before + one.text, one.answer - 1, one.events, X)
            total += Cost(head(dims).flops + behind.flops)
    total += _tokens_after(dims, 0, dims.layers - 1, before, 0)
    for alive, layer in last.items():
        total += expander + _tokens_after(dims, alive.layer, layer, alive.columns, before)
    for _, text, history in texts:
        X = history[-1].columns if history[-1] is not None else 0
        columns = before + X + text
        if len(history) < dims.layers:
            total += Cost(decoder_layer(dims, text, columns).flops)
        else:  # of the last layer only what the last token becomes is read
            total += Cost((projections(dims, text) + decoder_layer(dims, 1, columns)).flops)
    for _, text, history in {(question, text, history[:-1]) for question, text, history in texts}:
        if (
            len(history) in changed
        ):  # all rows that run together are left at this layer's attention, and run again
            total += Cost(projections(dims, text).flops)
    for _, text, history in scans:
        X = history[-1].columns if history and history[-1] is not None else 0
        total += Cost(scan(dims, before + X + text).flops)
    calls = max((one.answer for one in asked), default=1)  # texts, then a step per further token
    weights = dims.layers * dims.layer_weights + dims.hidden * dims.vocabulary
    trunk = dims.layers * key_value_bytes(dims, before)
    return total + Cost(0, calls * (weights * dims.itemsize + trunk))


def _tokens_after(dims: Dimensions, first: int, last: int, tokens: int, before: int) -> Cost:
    """`tokens` through layers `first` to `last`, attending to `before` others and to themselves.

    The output of the model's last layer is never read at these positions, so only its keys and values are computed.
    """
    total = Cost()
    for layer in range(first, last + 1):
        if layer < dims.layers - 1:
            total += decoder_layer(dims, tokens, before + tokens)
        else:
            total += projections(dims, tokens) + Cost(0, key_value_bytes(dims, tokens))
    return total
