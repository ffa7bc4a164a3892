"""Before a scanned layer: saliency per row, decision per run, and splitting of rows whose runs decide differently.

The scan and the decision are Algorithm 1's (`saliency.scan_and_decide`); what differs from `algorithm.py` is where
the saliency comes from, blocks of keys that rows share, and that a row serves many policies at once.

Legend: R rows, b rows with the same extension, T columns of text, N keys of one query, A query heads, E width of one
head, V tokens of the base grid.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.inference.policy import Event
from blink.inference.rows import Indexed, Member, Rows, Shared, group_by_extension
from blink.inference.saliency import Decision, attention_row, scan_and_decide, similarity_row
from blink.inference.trunk import Extension, ExtensionKey
from blink.model.backbone import Heads, rotate


def branch(shared: Shared, rows: Rows) -> Rows:
    """Project, scan, decide, expand or drop: as many rows, or more where runs of one row decide differently."""
    layer, backbone = rows.layer, shared.backbone
    heads = backbone.project(layer, rows.hidden_RTd)
    rows = replace(rows, projected=Indexed.of(heads))
    # A decision per run and row: policies that share a row share its saliency, and go by their own thresholds.
    decisions: dict[tuple[int, int], Decision] = {}
    for row, members in enumerate(rows.members):
        for member in members:
            policy = shared.runs[member.run].policy
            if policy is not None and layer in policy.layers:
                key = shared.sample_keys[rows.prompts[row]]
                decisions[row, member.run] = Decision(row, policy, key)
    if not decisions:
        return rows

    def saliency(kind: str) -> Tensor:
        of_kind = {"attention": _attention_saliency, "similarity": _similarity_saliency}[kind]
        return of_kind(shared, rows, heads)

    events = scan_and_decide(layer, backbone.grid, saliency, list(decisions.values()))
    return _split(shared, rows, dict(zip(decisions, events, strict=True)))


def _attention_saliency(shared: Shared, rows: Rows, heads: Heads) -> Tensor:
    """Saliency of the base grid by attention, [R, V] float32, in the sequence as it stands."""
    layer, backbone, trunk = rows.layer, shared.backbone, shared.trunk
    shared.extension_cache.advance(layer, rows.extensions)
    rotary = shared.rotary_at(rows.extensions, rows.offsets())
    keys_RKTE = rotate(heads.keys_BKNE, rotary)
    cos_RE, sin_RE = (rows.last(part) for part in rotary)
    last_RAE = rows.last(heads.query_BANE.transpose(1, 2))
    query_RA1E = rotate(last_RAE[:, :, None], (cos_RE[:, None], sin_RE[:, None]))
    valid_RT, V = rows.valid(), backbone.grid[0] * backbone.grid[1]
    saliency_RV = torch.empty(len(rows), V, device=valid_RT.device)
    for extension, group in group_by_extension(rows.extensions).items():
        blocks = [trunk.keys_values(layer).keys]
        if extension is not None:
            blocks.append(extension.keys_values(layer).keys)
        valid_bN = F.pad(valid_RT[group], (sum(block.shape[1] for block in blocks), 0), value=True)
        row_bN = attention_row(
            query_RA1E[group, :, 0], [*blocks, keys_RKTE[group]], valid_bN, backbone.scaling(layer)
        )
        saliency_RV[group] = row_bN[:, trunk.visual_start : trunk.visual_start + V]
    return saliency_RV


def _similarity_saliency(shared: Shared, rows: Rows, heads: Heads) -> Tensor:
    """Saliency of the base grid by Eq. 1-2, [R, V] float32; extensions do not matter."""
    layer = rows.layer
    keys_1KVE = shared.backbone.project(layer, shared.trunk.visual[layer][None]).keys_BKNE
    last_RAE = rows.last(heads.query_BANE.transpose(1, 2))
    return similarity_row(last_RAE, keys_1KVE.expand(len(rows), -1, -1, -1))


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
    return replace(rows.select(sources), members=members, extensions=extensions)


def _key(shared: Shared, member: Member, event: Event) -> ExtensionKey:
    """Cache key of the extension that this event inserts if it expands."""
    run = shared.runs[member.run]
    assert run.policy is not None, "only a policy makes events"
    module = run.modules.get(event.layer)
    return ExtensionKey(event.layer, event.region, run.policy.patches, run.policy.interpolate, module)
