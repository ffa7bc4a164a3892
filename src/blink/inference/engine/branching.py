"""Before a scanned layer: saliency per row, decision per run, and splitting of rows whose runs decide differently.

The scan and the decision are Algorithm 1's (`saliency.scan_and_decide`); what differs from `algorithm.py` is where
the saliency comes from, keys that rows share, and that a row serves many policies at once.

Legend: R rows, b rows whose base views have one grid, T columns of text, K key heads, P columns of trunks, A query heads,
E width of one head, V tokens of the base view.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from blink.inference.algorithm import placement_of
from blink.inference.attention import LeaveLayer
from blink.inference.crops import Recipe
from blink.inference.engine.rows import Layout, Member, Question, Rows, Shared, run_layer
from blink.inference.engine.sharing.extensions import Extension, ExtensionKey
from blink.inference.engine.sharing.trunk import Trunk
from blink.inference.policy import Event
from blink.inference.run import Run
from blink.inference.saliency import (
    Decision,
    RowsOfSaliency,
    scan_and_decide,
    similarity_row,
)
from blink.model.families import Grid
from blink.runs.values import NotFiniteError


def advance(shared: Shared, rows: Rows) -> Rows:
    """Scan, decide and run one layer; where that changes or splits a row, only scan and decide.

    The scan happens inside the layer's attention, as in `algorithm.py`. If every row goes on as it is, so does the
    layer; otherwise it is left there, and the rows that come back, more of them perhaps, run it next.
    """
    rows = rows.to(shared.backbone.device_of(rows.layer))
    # A decision per run and row: policies that share a row share its saliency, and go by their own thresholds.
    decisions = [
        Decision(rows.layer, row, member.run.policy, question.key, row, question.box)
        for row, (question, members) in enumerate(zip(rows.questions, rows.members, strict=True))
        for member in members
        if member.run.policy is not None and member.run.scans(rows.layer)
    ]
    if rows.decided or not decisions:
        return run_layer(shared, rows)
    scan = _Scan(shared, rows, decisions)
    try:
        after = run_layer(shared, rows, scan)
    except LeaveLayer:
        return _split(shared, rows, scan.events)
    told = _with_events(rows, scan.events)
    return replace(after, members=[tuple(member for member, _ in of_row) for of_row in told])


class _Scan:
    """Saliency and decisions of rows, from query and keys of a layer.

    Attributes:
        events: one per decision.
    """

    def __init__(self, shared: Shared, rows: Rows, decisions: Sequence[Decision]) -> None:
        self.events: list[Event] = []
        self._shared, self._rows, self._decisions = shared, rows, decisions

    def __call__(self, layout: Layout, query_RATE: Tensor, keys_RKTE: Tensor, scaling: float) -> None:
        """Decide, and leave the layer if any row changes."""
        shared, rows = self._shared, self._rows
        views: dict[tuple[int, Grid], list[int]] = {}
        for row, question in enumerate(rows.questions):
            views.setdefault((question.trunk.base_start, question.trunk.grid), []).append(row)

        def saliency(kind: str) -> list[RowsOfSaliency]:
            if kind == "similarity":
                return _similarity_saliency(shared, rows)
            last_RAE = rows.last(query_RATE.transpose(1, 2))
            row_RP = layout.attention_row(rows.layer, last_RAE, keys_RKTE, rows.last_token(), scaling)
            found = []
            for (start, (H, W)), of_view in views.items():
                row_bP = row_RP if len(views) == 1 else row_RP[of_view]
                found.append(RowsOfSaliency(of_view, (H, W), row_bP[:, start : start + H * W]))
            return found

        try:
            self.events = scan_and_decide(saliency, self._decisions)
        except NotFiniteError as error:
            question = rows.questions[int(error.sample or 0)]
            raise error.of(question.ask, question.number) from None
        if any(
            event.action == "expand" or (event.action == "drop" and rows.extensions[decision.row] is not None)
            for decision, event in zip(self._decisions, self.events, strict=True)
        ):
            raise LeaveLayer


def _similarity_saliency(shared: Shared, rows: Rows) -> list[RowsOfSaliency]:
    """Saliency of the base view by Eq. 1-2; extensions do not matter."""
    layer, backbone = rows.layer, shared.backbone
    norm = backbone.input_norm(layer)
    query_RAE = backbone.query(layer, norm(rows.last(rows.hidden_RTd)))
    trunks: dict[Trunk, list[int]] = {}
    for row, question in enumerate(rows.questions):
        trunks.setdefault(question.trunk, []).append(row)
    found = []
    for trunk, of_trunk in trunks.items():
        keys_1KVE = backbone.keys(layer, norm(trunk.visual[layer][None]))
        saliency_bV = similarity_row(query_RAE[of_trunk], keys_1KVE.expand(len(of_trunk), -1, -1, -1))
        found.append(RowsOfSaliency(of_trunk, trunk.grid, saliency_bV))
    return found


def _with_events(rows: Rows, events: Sequence[Event]) -> Iterator[list[tuple[Member, Event | None]]]:
    """The runs of each row, with their new events, and these; None for a run that does not scan this layer.

    Runs of a row whose events are equal share one tuple of them.

    Args:
        events: of the runs that scan this layer, row by row; equal ones are one object.
    """
    left = iter(events)
    for of_row in rows.members:
        known: dict[tuple[int, int], tuple[Event, ...]] = {}
        told: list[tuple[Member, Event | None]] = []
        for member in of_row:
            event = next(left) if member.run.scans(rows.layer) else None
            if event is not None:
                same = id(member.events), id(event)
                if same not in known:
                    known[same] = (*member.events, event)
                member = Member(member.number, member.run, known[same])
            told.append((member, event))
        yield told


def _split(shared: Shared, rows: Rows, events: Sequence[Event]) -> Rows:
    """Group the runs of each row by the extension that their events leave alive: a row per group.

    Args:
        events: of the runs that scan this layer, row by row.
    """
    sources: list[int] = []
    members: list[tuple[Member, ...]] = []
    living: list[ExtensionKey | Extension | None] = []
    for row, of_row in enumerate(_with_events(rows, events)):
        groups: dict[ExtensionKey | Extension | None, list[Member]] = {}
        for member, event in of_row:
            extension: ExtensionKey | Extension | None = rows.extensions[row]
            if event is not None:
                key = _key(rows.questions[row], member.run, event) if event.action == "expand" else None
                extension = event.apply_to(extension, key)
            groups.setdefault(extension, []).append(member)
        sources += [row] * len(groups)
        members += [tuple(group) for group in groups.values()]
        living += groups
    # Expansions are made here, all of them together, rather than run by run.
    expanded = shared.extension_cache.get(key for key in living if isinstance(key, ExtensionKey))
    extensions = [expanded[one] if isinstance(one, ExtensionKey) else one for one in living]
    return replace(rows.select(sources), members=members, extensions=extensions, decided=True, layout=None)


def _key(question: Question, run: Run, event: Event) -> ExtensionKey:
    """Cache key of the extension that an event inserts."""
    assert run.policy is not None, "only a policy makes events"
    placement = placement_of(run.policy, event.region, question.trunk.grid)
    return ExtensionKey(
        question.trunk, question.trunk_number, Recipe.of(run, event.layer), event.region, placement
    )
