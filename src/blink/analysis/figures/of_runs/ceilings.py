"""Where the gain is lost: what extensions are made of, where they stand and who chooses the region, against vanilla.

The runs always expand at one layer (`experiment=ceilings`). From the highest ceiling, the region of the question's box
encoded anew and put at its cells' positions, one thing at a time is taken back: the scan chooses the region, TokenSR
makes the tokens, they are appended behind the picture. What each step costs on the same questions is drawn beside the
gains of all settings over vanilla.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from blink.analysis.figures.of_runs.points import Point, about, difference_with_unit, main_metric, vanilla_of
from blink.bench.statistics import Estimate
from blink.evaluation.compare import compare_pairs
from blink.runs.style import BLUE, GREEN, INTERP, PURPLE, TOKEN_SR, Drawn, interval_rows, plain
from blink.runs.values import UserError

_COLOURS = {"interp": INTERP.colour, "blink": TOKEN_SR.colour, "encode": GREEN, "zoom": PURPLE}
_TOKENS = {
    "interp": "interpolation",
    "blink": "TokenSR",
    "encode": "encoded crop",
    "zoom": "zoom, two passes",
}
_REGIONS = {"saliency": "hottest region", "box": "region of the box", "random": "random region"}
_PLACES = {"append": "appended", "region": "at its cells"}


class Setting(NamedTuple):
    """What made an extension's tokens (a method), where they stand, and who chose the region."""

    method: str
    positions: str
    selector: str

    @property
    def label(self) -> str:
        """In words."""
        if self.method == "zoom":
            return f"{_TOKENS['zoom']}, {_REGIONS[self.selector]}"
        return f"{_TOKENS[self.method]}, {_PLACES[self.positions]}, {_REGIONS[self.selector]}"


STEPS = (
    ("scan in place of the box", Setting("encode", "region", "box"), Setting("encode", "region", "saliency")),
    (
        "TokenSR in place of the crop",
        Setting("encode", "region", "saliency"),
        Setting("blink", "region", "saliency"),
    ),
    (
        "appended in place of its cells'",
        Setting("blink", "region", "saliency"),
        Setting("blink", "append", "saliency"),
    ),
)
"""Step -> the setting before it, and the one after it."""


def choose(points: Sequence[Point]) -> dict[Setting, Point]:
    """Sort runs by their setting, in the order in which they are drawn.

    Raises:
        ValueError: there is no vanilla run or no other, two runs have one setting, or they differ in more than that or do
            not always expand.
    """
    found: dict[Setting, Point] = {}
    for point in points:
        policy, method = point.policy, str(point.run.result.method)
        if policy is None:
            continue
        if method not in _TOKENS:
            raise UserError(
                f"{point.run.folder} is of method {method}; ceilings shows {', '.join(_TOKENS)} beside vanilla"
            )
        setting = Setting(method, policy.positions, policy.selector)
        if setting in found:
            raise UserError(
                f"{found[setting].run.folder} and {point.run.folder} have one setting ({setting.label}); give runs that "
                "differ in method, positions or selector alone"
            )
        found[setting] = point
    if vanilla_of(points) is None or not found:
        raise UserError(
            "ceilings needs one vanilla run and runs to hold against it: experiment=ceilings makes them"
        )
    _check_alike(list(found.values()))
    order = list(_TOKENS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0].method), item[0][1:])))


def _check_alike(points: Sequence[Point]) -> None:
    """Raise ValueError unless all runs always expand, at the same layers and one of as many regions."""
    policies = {point.run.folder: point.policy for point in points if point.policy is not None}
    folder, first = next(iter(policies.items()))
    for other, policy in policies.items():
        if policy.tau_exp > 0:
            raise UserError(
                f"{other} expands above tau_exp={policy.tau_exp:g} alone; ceilings shows runs that always expand (tau_exp=0)"
            )
        for key in ("layers", "patches"):
            if getattr(first, key) != getattr(policy, key):
                raise UserError(
                    f"{folder} has {key}={getattr(first, key)} and {other} {key}={getattr(policy, key)}; give runs that "
                    "differ in method, positions or selector alone"
                )


def differences(
    points: Sequence[Point], settings: Mapping[Setting, Point]
) -> tuple[dict[Setting, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Paired differences of every setting to vanilla, and of each step: metric -> difference with its interval.

    Steps of which one end was not run are left out.
    """
    vanilla = vanilla_of(points)
    assert vanilla is not None, "choose has seen it"
    runs = [vanilla, *(point.run for point in settings.values())]
    number = {setting: i for i, setting in enumerate(settings, start=1)}
    steps = {
        name: (number[before], number[after])
        for name, before, after in STEPS
        if before in number and after in number
    }
    found = compare_pairs(runs, [*((0, i) for i in number.values()), *steps.values()])
    gains = [comparison.differences for comparison in found]
    return dict(zip(settings, gains, strict=False)), dict(zip(steps, gains[len(settings) :], strict=True))


def table(
    gains: Mapping[Setting, Mapping[str, Estimate]],
    steps: Mapping[str, Mapping[str, Estimate]],
    points: Mapping[Setting, Point],
) -> list[dict[str, Any]]:
    """One record per setting or step, and metric."""
    records = []
    for setting, found in gains.items():
        result = points[setting].run.result
        for metric, estimate in found.items():
            difference = dict(
                zip(("difference", "low", "high"), (round(n, 4) for n in estimate), strict=True)
            )
            record = {"what": setting.label, "against": "vanilla", **setting._asdict(), "metric": metric}
            value = {"value": round(result.metrics[metric], 4)}
            records.append(record | value | difference | {"gflops": result.gflops_per_question})
    for name, found in steps.items():
        for metric, estimate in found.items():
            difference = dict(
                zip(("difference", "low", "high"), (round(n, 4) for n in estimate), strict=True)
            )
            records.append({"what": name, "against": "the step before", "metric": metric, **difference})
    return records


def draw(gains: Mapping[Setting, Estimate], steps: Mapping[str, Estimate], title: str, unit: str) -> Figure:
    """Gains over vanilla of all settings, and what each step loses.

    A filled marker means that the interval does not hold 0.
    """
    rows = max(len(gains), 3)
    figure = Figure(figsize=(11 if steps else 6.4, 1.6 + 0.32 * rows), layout="constrained")
    figure.suptitle(plain(title))
    panels = figure.subplots(1, 2, width_ratios=(3, 2)) if steps else [figure.subplots()]
    named = {setting.label: estimate for setting, estimate in gains.items()}
    interval_rows(panels[0], named, [_COLOURS[setting.method] for setting in gains], against_zero=True)
    panels[0].set_xlabel(plain(f"gain over vanilla,\n{unit}"))
    if steps:
        interval_rows(panels[1], steps, [BLUE] * len(steps), against_zero=True)
        panels[1].set_xlabel(plain(f"what each step changes,\n{unit}"))
    figure.supxlabel(
        "paired differences with 95 % intervals; filled: the interval leaves 0 out", fontsize="small"
    )
    return figure


def figure_of_runs(points: Sequence[Point], settings: Mapping[str, Any], family: str) -> Drawn:
    """Draw the ceilings from finished runs."""
    metric = main_metric(points, settings["metric"])
    chosen = choose(points)
    gains, steps = differences(points, chosen)
    layers = sorted({layer for point in chosen.values() for layer in point.layers})
    title = f"Ceilings: always expanding at layer {', '.join(map(str, layers))}\n{about(points)}"
    figure = draw(
        {setting: found[metric] for setting, found in gains.items()},
        {name: found[metric] for name, found in steps.items()},
        title,
        difference_with_unit(points, metric),
    )
    labels = {setting.label: str(point.run.folder) for setting, point in chosen.items()}
    return Drawn({"ceilings": figure}, table(gains, steps, chosen), {"metric": metric, "runs": labels})
