"""An experiment of the paper as a list of evaluations: the rows of a table, each a set of overrides.

`conf/experiment/*.yaml` names the rows; their settings may leave layers and thresholds to the backbone's family
(`{main}`, see `names`), so that one file serves every backbone. A job is written in plain overrides and knows
nothing of its experiment: experiments share the runs that they have in common. Knows nothing of models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, NamedTuple

from blink.evaluation.planning.presets import LAYER_STUDIES, layer_study, preset
from blink.evaluation.planning.settings import POLICY_KEYS
from blink.evaluation.sweeps.paper import TABLES
from blink.runs.values import UserError

Names = Mapping[str, str | tuple[str, ...]]
"""What stands in braces in an experiment's settings -> its value, or the values that `each` goes through."""

_UNREAD = {
    "vanilla": {*POLICY_KEYS, "token_sr"},
    "interp": {"token_sr"},
    "encode": {"token_sr"},
    "zoom": {"token_sr"},
}
"""Method -> overrides that change nothing about it. Without them its run is found again, whatever else is tried."""

_REUSE, _BATCH = "engine.reuse", "engine.batch"
"""Whether questions share what they can ("full") or share nothing ("none"), so many in a padded batch: the same but for rounding."""

_NOISE_BATCH = "8"
"""Questions in a batch where rounding is measured, unless the user says how many."""

_HIGHER, _LOWER = 0.2, -0.1
"""Table 2, as App. B has it for LLaVA-1.5: high tau_exp 0.7 for 0.5, low tau_drop 0.3 for 0.4. The same distances
from the main thresholds are taken on other backbones."""


@dataclass(frozen=True)
class Row:
    """One row of an experiment, or one for each combination of the values in `each`.

    Attributes:
        name: unique; may hold names in braces, as may `set`, `against` and `paper`.
        set: overrides; those that the user gives win.
        each: name -> values, or the name of the backbone's list of values.
        against: rows that this one is compared with, the experiment's baseline apart.
        paper: row of the paper's table with the same meaning; None: the one of the same name, if there is one.
        noise: the row repeats another with questions batched otherwise, which measures what rounding does.
    """

    name: str
    set: tuple[str, ...]
    each: Mapping[str, str | tuple[str, ...]]
    against: tuple[str, ...] = ()
    paper: str | None = None
    noise: bool = False


@dataclass(frozen=True)
class Experiment:
    """What one file of `conf/experiment` says.

    Attributes:
        title: above its tables.
        paper: key of `blink.evaluation.sweeps.paper.TABLES`; None where the paper has no such table.
        bench: benchmarks, unless the user names others.
        metrics: benchmark -> metrics that become columns; of others all that the paper's Table 1 has.
        baseline: name of the row that every other one is compared with.
        transposed: rows become columns, as in Table 2.
        rows: in the order of the table.
    """

    title: str
    bench: tuple[str, ...]
    rows: tuple[Row, ...]
    paper: str | None
    metrics: Mapping[str, tuple[str, ...]]
    baseline: str
    transposed: bool


class Line(NamedTuple):
    """One row of the table that will be printed, on one benchmark.

    Attributes:
        name: of the row, and what the user sweeps beside it.
        label: the name, with the user's own settings where they replaced the row's.
        group: its method where the row goes through several; lines of one group stand together.
        bench: its benchmark.
        overrides: of its job.
        against: names of the rows that it is compared with, the baseline first; they may have been left out.
        paper: row of the paper's table.
        noise: whether it measures rounding.
        swept: what the user sweeps beside the rows, as it stands at the end of the name; empty if nothing.
    """

    name: str
    label: str
    group: str
    bench: str
    overrides: tuple[str, ...]
    against: tuple[str, ...]
    paper: str
    noise: bool
    swept: str = ""


def read_experiment(content: Mapping[str, Any]) -> Experiment:
    """Read an experiment from the config, as plain containers.

    Raises:
        ValueError: a key is unknown or missing, the paper has no such table, or rows have names in common or are
            compared with rows that do not exist.
    """
    unknown = content.keys() - {field.name for field in fields(Experiment)}
    missing = {"title", "bench", "rows"} - content.keys()
    if unknown or missing:
        raise UserError(
            f"experiment: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}; "
            "files in conf/experiment show what belongs there"
        )
    rows = tuple(_read_row(row) for row in content["rows"])
    experiment = Experiment(
        title=content["title"],
        bench=tuple(content["bench"]),
        rows=rows,
        paper=content.get("paper"),
        metrics={name: tuple(metrics) for name, metrics in content.get("metrics", {}).items()},
        baseline=content.get("baseline", "vanilla"),
        transposed=content.get("transposed", False),
    )
    names = [row.name for row in rows]
    if len(set(names)) < len(names) or experiment.baseline not in names:
        raise UserError(f"experiment {experiment.title!r}: rows {names} must differ and hold the baseline")
    if experiment.paper is not None and experiment.paper not in TABLES:
        raise UserError(
            f"experiment {experiment.title!r}: the paper has no {experiment.paper!r}, but {list(TABLES)}"
        )
    return experiment


def names(family: str, num_layers: int | None = None) -> dict[str, str | tuple[str, ...]]:
    """Return what the names in an experiment's settings stand for on a backbone.

    Layers are those of its `LayerStudy`; thresholds those of its preset for MME, on which the paper's ablations run,
    and their higher and lower variants.

    Args:
        family: row of the preset tables; one that they do not have takes what follows from its number of layers.
        num_layers: decoder layers of the backbone; None where a table lists its family, or else nothing is known.
    """
    if num_layers is None:
        if family not in LAYER_STUDIES:
            return {}
        num_layers = LAYER_STUDIES[family].num_layers
    study, main = layer_study(family, num_layers), preset(family, "mme", num_layers)
    assert main is not None, "a number of layers always gives a preset"
    return {
        "main": study.main,
        "birth": study.birth,
        "ranges": study.ranges,
        "copies": study.copies,
        "starts": study.starts,
        "ends": study.ends,
        "singles": study.singles,
        "tau_exp": f"{main.tau_exp:g}",
        "tau_drop": f"{main.tau_drop:g}",
        "high_tau_exp": f"{min(main.tau_exp + _HIGHER, 1):.6g}",
        "low_tau_drop": f"{max(main.tau_drop + _LOWER, 0):.6g}",
    }


def lines_of(
    experiment: Experiment,
    bench: str,
    given: Mapping[str, str],
    known: Names,
    suffix: str = "",
) -> tuple[list[Line], list[str]]:
    """Return the rows of an experiment on one benchmark, under overrides that the user gives.

    The user's overrides win, but for the baseline and the rows that measure rounding, which would lose their
    meaning. A row that they turn into another one is left out: `method=interp` leaves the rows of that method.

    Args:
        given: key -> value of the user's overrides, without experiment and benchmark.
        known: as `names` returns it.
        suffix: appended to the names of the rows: what tells this combination of the user's sweep from others.

    Returns:
        The lines, and the names of the rows left out.

    Raises:
        ValueError: a setting holds a name that the backbone's family does not have.
    """
    lines: list[Line] = []
    replaced: dict[Line, set[str]] = {}
    for row in experiment.rows:
        # the baseline and the rows that measure rounding keep their settings against the user's
        held = row.noise or row.name == experiment.baseline
        for values in _combinations(row, known, given):
            filled = {**known, **values}
            own = _settings(row, filled, {} if held else given)
            settings = {**given, **own} if held else {**own, **given}
            if row.noise:
                if settings.get(_REUSE) == "none":
                    settings[_REUSE] = "full"
                else:
                    settings |= {_REUSE: "none", _BATCH: settings.get(_BATCH, _NOISE_BATCH)}
            unread = _UNREAD.get(settings.get("method", ""), ())
            settings = {"bench": bench} | {k: value for k, value in settings.items() if k not in unread}
            changed = [key for key in own if settings.get(key, own[key]) != own[key]]
            instead = [f"{key}={settings[key]}" for key in changed]
            name = _filled(row.name, filled)
            against = [experiment.baseline, *(_filled(other, filled) for other in row.against)]
            line = Line(
                name=name + suffix,
                label=", ".join([name, *instead]) + suffix,
                group=values.get("method", ""),
                bench=bench,
                overrides=tuple(f"{key}={value}" for key, value in settings.items()),
                against=tuple(dict.fromkeys(other + suffix for other in against if other != name)),
                paper="" if instead else _filled(row.paper or row.name, filled),
                noise=row.noise,
                swept=suffix,
            )
            lines.append(line)
            replaced[line] = set(changed)
    kept = _without_repeats(lines, replaced)
    groups = list(dict.fromkeys(line.group for line in lines))
    kept.sort(key=lambda line: groups.index(line.group))
    return kept, [line.name for line in lines if line not in kept]


def _without_repeats(lines: Sequence[Line], replaced: Mapping[Line, set[str]]) -> list[Line]:
    """Leave out rows that the user's overrides made the same as others, unless what is left is compared with them.

    Args:
        replaced: keys of each row's settings that the user's overrides replace.
    """
    as_written = {frozenset(line.overrides) for line in lines if not replaced[line]}
    kept: list[Line] = []
    for line in lines:
        taken = as_written | {frozenset(other.overrides) for other in kept}
        if not replaced[line] or frozenset(line.overrides) not in taken:
            kept.append(line)
    wanted = {name for line in kept for name in line.against}
    return [
        line for line in lines if line in kept or (line.name in wanted and "method" not in replaced[line])
    ]


def _combinations(row: Row, known: Names, given: Mapping[str, str]) -> Iterable[dict[str, str]]:
    """The values of a row's `each`, one mapping per combination."""
    lists = []
    for name, values in row.each.items():
        listed: str | tuple[str, ...] = values
        if isinstance(values, str):  # the user's own layer serves a backbone of which no others are known
            replaced = name in given and values not in known
            listed = given[name] if replaced else _known(values, known)
        lists.append([(name, value) for value in ((listed,) if isinstance(listed, str) else listed)])
    return (dict(combination) for combination in product(*lists))


def _known(name: str, known: Names) -> str | tuple[str, ...]:
    if name not in known:
        raise UserError(
            f"the experiment's {name!r} is not known for this backbone; name a model.family of "
            f"{', '.join(LAYER_STUDIES)}, or give layer=, tau_exp= and tau_drop="
        )
    return known[name]


def _filled(text: str, values: Names) -> str:
    """Replace every `{name}` in a text by its value.

    Raises:
        ValueError: there is no value for it.
    """
    parts = text.split("{")
    done = parts[0]
    for part in parts[1:]:
        name, _, rest = part.partition("}")
        done += f"{_known(name, values)}{rest}"
    return done


def _settings(row: Row, values: Names, given: Mapping[str, str]) -> dict[str, str]:
    """A row's settings, filled in; a setting that the user replaces may hold unknown names."""
    settings = {}
    for override in row.set:
        key, _, value = override.partition("=")
        try:
            settings[key] = _filled(value, values)
        except ValueError:
            if key not in given:
                raise
            settings[key] = value
    return settings


def _read_row(content: Mapping[str, Any]) -> Row:
    unknown = content.keys() - {field.name for field in fields(Row)}
    if unknown or "name" not in content:
        raise UserError(f"experiment: a row has a name and no {sorted(unknown)}: {dict(content)}")
    each: dict[str, str | Sequence[Any]] = content.get("each", {})
    return Row(
        name=content["name"],
        set=tuple(content.get("set", ())),
        each={
            key: value if isinstance(value, str) else tuple(str(part) for part in value)
            for key, value in each.items()
        },
        against=tuple(content.get("against", ())),
        paper=content.get("paper"),
        noise=content.get("noise", False),
    )
