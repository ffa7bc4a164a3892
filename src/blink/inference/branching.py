"""What rows do before a layer: look at the picture, let every run decide, and part where runs disagree (Alg. 1).

Legend: R rows, b rows with the same extension, T columns of text, M columns of a row's own keys, N keys of one query,
A query heads, K key heads, E width of one head, V tokens of the base grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from blink.inference.policy import decide
from blink.inference.rows import Member, Projected, Rows, Scene, by_extension, offsets
from blink.inference.saliency import attention_row, focus, similarity_row
from blink.inference.trunk import Birth, Extension
from blink.model.backbone import Heads, rotate

_Look = tuple[str, int]
"""What a scan depends on besides the row: kind of saliency, and patches per side."""


def act(scene: Scene, rows: Rows) -> Rows:
    """Scan, decide, expand or drop where policies say so: as many rows, or more where runs disagree."""
    heads = scene.backbone.project(rows.layer, rows.hidden_RTd)
    acted = replace(rows, acted=Projected(heads, list(range(len(rows)))))
    if any(run.policy is not None and rows.layer in run.policy.layers for run in scene.runs):
        return _split(scene, acted, _scan(scene, rows, heads, offsets(rows)))
    return acted


@torch.no_grad()
def _scan(scene: Scene, rows: Rows, heads: Heads, offsets_RT: Tensor) -> dict[_Look, list[tuple[float, int]]]:
    """Look at the picture from the last token of every row: (ratio, hottest region) per row, for each way to look."""
    policies = {run.policy for run in scene.runs if run.policy is not None}
    looks = {(policy.saliency, policy.patches) for policy in policies if rows.layer in policy.layers}
    rows_of = {"attention": _attention_saliency, "similarity": _similarity_saliency}
    found: dict[_Look, list[tuple[float, int]]] = {}
    for kind in sorted({kind for kind, _ in looks}):
        saliency_RV = rows_of[kind](scene, rows, heads, offsets_RT)
        for patches in sorted({patches for other, patches in looks if other == kind}):
            ratio_R, region_R = focus(saliency_RV, scene.backbone.grid, patches)
            found[kind, patches] = list(zip(ratio_R.tolist(), region_R.tolist(), strict=True))
    return found


def _attention_saliency(scene: Scene, rows: Rows, heads: Heads, offsets_RT: Tensor) -> Tensor:
    """Saliency of the base grid by attention, [R, V] float32, in the sequence as it stands."""
    layer, backbone, trunk = rows.layer, scene.backbone, scene.trunk
    scene.extensions.run(layer, rows.alive)
    rotary = scene.rotary_at(rows.alive, offsets_RT)
    keys_RKTE = rotate(heads.keys_BKNE, rotary)
    last_R = torch.tensor(rows.lengths, device=offsets_RT.device) - 1
    each_R = torch.arange(len(rows), device=offsets_RT.device)
    cos_RE, sin_RE = (part[each_R, last_R] for part in rotary)
    query_RA1E = rotate(heads.query_BANE[each_R, :, last_R][:, :, None], (cos_RE[:, None], sin_RE[:, None]))
    valid_RT = offsets_RT <= last_R[:, None]
    V = backbone.grid[0] * backbone.grid[1]
    saliency_RV = torch.empty(len(rows), V, device=offsets_RT.device)
    for extension, group in by_extension(rows.alive).items():
        shared = [trunk.at(layer).keys, *([] if extension is None else [extension.at(layer).keys])]
        valid_bN = F.pad(valid_RT[group], (sum(block.shape[1] for block in shared), 0), value=True)
        row_bN = attention_row(
            query_RA1E[group, :, 0], [*shared, keys_RKTE[group]], valid_bN, backbone.scaling(layer)
        )
        saliency_RV[group] = row_bN[:, trunk.visual_start : trunk.visual_start + V]
    return saliency_RV


def _similarity_saliency(scene: Scene, rows: Rows, heads: Heads, offsets_RT: Tensor) -> Tensor:
    """Saliency of the base grid by Eq. 1-2, [R, V] float32; extensions do not matter."""
    layer, backbone = rows.layer, scene.backbone
    keys_1KVE = backbone.project(layer, scene.trunk.visual[layer][None]).keys_BKNE
    last_R = torch.tensor(rows.lengths, device=offsets_RT.device) - 1
    each_R = torch.arange(len(rows), device=offsets_RT.device)
    return similarity_row(heads.query_BANE[each_R, :, last_R], keys_1KVE.expand(len(rows), -1, -1, -1))


def _split(scene: Scene, rows: Rows, seen: Mapping[_Look, Sequence[tuple[float, int]]]) -> Rows:
    """Let every run decide; split rows whose runs disagree."""
    parents: list[int] = []
    members: list[tuple[Member, ...]] = []
    alive: list[Birth | Extension | None] = []
    for row in range(len(rows)):
        outcomes: dict[Birth | Extension | None, list[Member]] = {}
        for member in rows.members[row]:
            outcome, decided = _decide(scene, rows, row, member, seen)
            outcomes.setdefault(outcome, []).append(decided)
        parents += [row] * len(outcomes)
        alive += outcomes
        members += [tuple(together) for together in outcomes.values()]
    born = scene.extensions.born(outcome for outcome in alive if isinstance(outcome, Birth))
    extensions = [born[outcome] if isinstance(outcome, Birth) else outcome for outcome in alive]
    return replace(rows.select(parents), members=members, alive=extensions)


def _decide(
    scene: Scene,
    rows: Rows,
    row: int,
    member: Member,
    seen: Mapping[_Look, Sequence[tuple[float, int]]],
) -> tuple[Birth | Extension | None, Member]:
    """What lives in a row after one of its runs has decided, and that run with its new event."""
    run = scene.runs[member.run]
    policy = run.policy
    if policy is None or rows.layer not in policy.layers:
        return rows.alive[row], member
    ratio, hottest = seen[policy.saliency, policy.patches][row]
    event = decide(policy, rows.layer, ratio, hottest, scene.keys[rows.prompts[row]])
    module = run.modules.get(rows.layer)
    new = Birth(rows.layer, event.region, policy.patches, policy.interpolate, module)
    return event.apply_to(rows.alive[row], new), member._replace(events=(*member.events, event))
