"""Before a scanned layer: saliency per row, decision per run, and splitting of rows whose runs decide differently.

The scan and the decision are Algorithm 1's (`saliency.scan_and_decide`); what differs from `algorithm.py` is where
the saliency comes from, blocks of keys that rows share, and that a row serves many policies at once.

Legend: R rows, b rows with the same extension, T columns of text, N keys of one query, A query heads, E width of one
head, V tokens of the base grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.inference.algorithm import placement_of
from blink.inference.attention import LeaveLayer
from blink.inference.crops import Recipe
from blink.inference.engine.rows import Member, Rows, Shared, group_by_extension, run_layer
from blink.inference.engine.trunk import Extension, ExtensionKey
from blink.inference.policy import Event
from blink.inference.saliency import (
    Decision,
    RowsOfSaliency,
    attention_row,
    scan_and_decide,
    similarity_row,
)


def advance(shared: Shared, rows: Rows) -> Rows:
    """Scan, decide and run one layer; where that changes or splits a row, only scan and decide.

    The scan happens inside the layer's attention, as in `algorithm.py`. If every row goes on as it is, so does the
    layer; otherwise it is left there, and the rows that come back, more of them perhaps, run it next.
    """
    # A decision per run and row: policies that share a row share its saliency, and go by their own thresholds.
    decisions: dict[tuple[int, int], Decision] = {}
    for row, members in enumerate(rows.members):
        for member in members:
            run = shared.runs[member.run]
            if run.policy is not None and run.scans(rows.layer):
                prompt = rows.prompts[row]
                key, boxes = shared.samples.keys[prompt], shared.samples.boxes
                box = None if boxes is None else boxes[prompt]
                decisions[row, member.run] = Decision(row, run.policy, key, prompt, box)
    if rows.decided or not decisions:
        return run_layer(shared, rows)
    scan = _Scan(shared, rows, decisions)
    try:
        after = run_layer(shared, rows, scan)
    except LeaveLayer:
        return _split(shared, rows, scan.events)
    return replace(
        after, members=[_with_events(of_row, row, scan.events) for row, of_row in enumerate(rows.members)]
    )


class _Scan:
    """Saliency and decisions of rows, from query and keys of a layer.

    Attributes:
        events: (row, run) -> event, for the runs that scan this layer.
    """

    def __init__(self, shared: Shared, rows: Rows, decisions: Mapping[tuple[int, int], Decision]) -> None:
        self.events: dict[tuple[int, int], Event] = {}
        self._shared, self._rows, self._decisions = shared, rows, decisions

    def __call__(self, query_RATE: Tensor, keys_RKTE: Tensor, scaling: float) -> None:
        """Decide, and leave the layer if any row changes."""
        shared, rows = self._shared, self._rows

        def saliency(kind: str) -> list[RowsOfSaliency]:
            saliency_RV = (
                _similarity_saliency(shared, rows)
                if kind == "similarity"
                else _attention_saliency(shared, rows, query_RATE, keys_RKTE, scaling)
            )
            return [RowsOfSaliency(range(len(rows)), shared.trunk.grid, saliency_RV)]

        events = scan_and_decide(rows.layer, saliency, list(self._decisions.values()))
        self.events = dict(zip(self._decisions, events, strict=True))
        if any(
            event.action == "expand" or (event.action == "drop" and rows.extensions[row] is not None)
            for (row, _), event in self.events.items()
        ):
            raise LeaveLayer


def _attention_saliency(
    shared: Shared, rows: Rows, query_RATE: Tensor, keys_RKTE: Tensor, scaling: float
) -> Tensor:
    """Saliency of the base view by attention, [R, V] float32, in the sequence as it stands."""
    layer, trunk = rows.layer, shared.trunk
    last_RAE = rows.last(query_RATE.transpose(1, 2))
    valid_RT, V = rows.valid(), trunk.cell_CV.shape[1]
    saliency_RV = torch.empty(len(rows), V, device=valid_RT.device)
    for extension, group in group_by_extension(rows.extensions).items():
        blocks = [trunk.keys_values(layer).keys]
        if extension is not None:
            blocks.append(extension.keys_values(layer).keys)
        valid_bN = F.pad(valid_RT[group], (sum(block.shape[1] for block in blocks), 0), value=True)
        row_bN = attention_row(last_RAE[group], [*blocks, keys_RKTE[group]], valid_bN, scaling)
        saliency_RV[group] = row_bN[:, trunk.base_start : trunk.base_start + V]
    return saliency_RV


def _similarity_saliency(shared: Shared, rows: Rows) -> Tensor:
    """Saliency of the base view by Eq. 1-2, [R, V] float32; extensions do not matter."""
    layer, backbone = rows.layer, shared.backbone
    norm = backbone.input_norm(layer)
    keys_1KVE = backbone.keys(layer, norm(shared.trunk.visual[layer][None]))
    query_RAE = backbone.query(layer, norm(rows.last(rows.hidden_RTd)))
    return similarity_row(query_RAE, keys_1KVE.expand(len(rows), -1, -1, -1))


def _with_events(
    members: Sequence[Member], row: int, events: Mapping[tuple[int, int], Event]
) -> tuple[Member, ...]:
    """The runs of a row, each with its new event if it scans this layer."""
    return tuple(
        member._replace(events=(*member.events, events[row, member.run]))
        if (row, member.run) in events
        else member
        for member in members
    )


def _split(shared: Shared, rows: Rows, events: Mapping[tuple[int, int], Event]) -> Rows:
    """Group the runs of each row by the extension that their events leave alive: a row per group.

    Args:
        events: (row, run) -> event, for the runs that scan this layer.
    """
    sources: list[int] = []
    members: list[tuple[Member, ...]] = []
    living: list[ExtensionKey | Extension | None] = []
    for row, of_row in enumerate(rows.members):
        groups: dict[ExtensionKey | Extension | None, list[Member]] = {}
        for member in of_row:
            event = events.get((row, member.run))
            extension: ExtensionKey | Extension | None = rows.extensions[row]
            if event is not None:
                extension = event.apply_to(extension, _key(shared, member, event))
                member = member._replace(events=(*member.events, event))
            groups.setdefault(extension, []).append(member)
        sources += [row] * len(groups)
        members += [tuple(group) for group in groups.values()]
        living += groups
    # Expansions are made here, all of them together, rather than run by run.
    expanded = shared.extension_cache.get(key for key in living if isinstance(key, ExtensionKey))
    extensions = [expanded[one] if isinstance(one, ExtensionKey) else one for one in living]
    return replace(rows.select(sources), members=members, extensions=extensions, decided=True)


def _key(shared: Shared, member: Member, event: Event) -> ExtensionKey:
    """Cache key of the extension that this event inserts if it expands."""
    run = shared.runs[member.run]
    assert run.policy is not None, "only a policy makes events"
    placement = placement_of(run.policy, event.region, shared.trunk.grid)
    return ExtensionKey(Recipe.of(run, event.layer), event.region, placement)
