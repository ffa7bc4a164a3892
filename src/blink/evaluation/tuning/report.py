"""The page, the plots and the tables of a search, and the preset file.

report.html      all of it on a page that needs no network
look.csv         every layer's ratios, and how often its hottest region is the right one
trials.csv       what was tried
finalists.csv    what was measured again
choice.json      what was chosen, why, and where it comes from
preset.yaml      the chosen setting, for preset=FILE
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from blink.bench.statistics import Estimate
from blink.evaluation.tuning.look import Look, look_table
from blink.evaluation.tuning.measure import Answered, cost_of
from blink.evaluation.tuning.plan import Plan
from blink.evaluation.tuning.rule import Choice, Finalist
from blink.evaluation.tuning.search import Trial, distinct
from blink.evaluation.tuning.space import layers_text
from blink.runs.files import write_csv, write_json, write_text
from blink.runs.inputs.preset_file import write_preset
from blink.runs.style import GREY, legend_above, reach, series_styles
from blink.runs.style import look as styled

PAGE, PRESET, CHOICE = "report.html", "preset.yaml", "choice.json"
LOOK_TABLE, TRIALS, FINALISTS = "look.csv", "trials.csv", "finalists.csv"


class Found(NamedTuple):
    """What a search found.

    Attributes:
        vanilla, vanilla_held_out: the backbone as it is on each half.
    """

    looks: Mapping[int, Look]
    trials: Sequence[Trial]
    vanilla: Answered
    vanilla_held_out: Answered
    choice: Choice


def write_report(plan: Plan, found: Found, folder: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Write all files of a search into its folder, and return their paths; the page comes first, the preset last."""
    choice = found.choice
    setting = choice.chosen.held_out.setting
    assert setting.policy is not None
    write_csv(folder / LOOK_TABLE, look_table(found.looks))
    write_csv(folder / TRIALS, [_trial_record(trial, found.vanilla) for trial in found.trials])
    write_csv(folder / FINALISTS, [_finalist_record(one, found) for one in choice.finalists])
    policy = setting.policy
    write_preset(
        folder / PRESET,
        {
            "layer": list(policy.layers),
            "tau_exp": policy.tau_exp,
            "tau_drop": policy.tau_drop,
            "patches": policy.patches,
            "positions": policy.positions,
            "scale_tau": policy.scale_tau,
            "selector": policy.selector,
            "token_sr": plan.token_sr if setting.method == "blink" and plan.backbone.path != "tiny" else None,
        },
        method=setting.method,
        backbone=plan.backbone.path,
        beats_vanilla=choice.beats,
        note=choice.reason,
    )
    write_json(
        folder / CHOICE,
        {
            "setting": setting.name,
            "method": setting.method if choice.beats else "vanilla",
            "beats_vanilla": choice.beats,
            "reason": choice.reason,
            "level": choice.level,
            "finalists": [_finalist_record(one, found) for one in choice.finalists],
            "warnings": plan.warnings,
            "provenance": dict(provenance),
        },
    )
    write_text(folder / PAGE, _page(plan, found, folder))
    return [folder / name for name in (PAGE, LOOK_TABLE, TRIALS, FINALISTS, CHOICE, PRESET)]


def _page(plan: Plan, found: Found, folder: Path) -> str:
    choice, held_out = found.choice, [one.held_out for one in found.choice.finalists]
    cost, counted = cost_of(held_out), all(one.flops is not None for one in held_out)
    parts = held_out[0].parts if len(held_out[0].parts) > 1 else ()
    rows = [
        {
            "name": one.held_out.setting.name,
            "chosen": one is choice.chosen,
            "searched": f"{one.searched.gain_over(found.vanilla).value:+.2f}",
            "gain": _interval(one.gain),
            "error": f"{one.error:.2f}",
            "beats": one.beats,
            "near": one.near,
            "expanded": f"{100 * one.held_out.expanded:.0f} %",
            "cost": f"{cost(one.held_out) / (found.vanilla_held_out.flops or 1):.3f}"
            if counted
            else f"{cost(one.held_out):.2f}",
            "parts": {
                part: f"{gain.value:+.1f}"
                for part, gain in one.held_out.gains_by_part(found.vanilla_held_out).items()
            },
        }
        for one in choice.finalists
    ]
    searched = sum(len(asked.search) for asked in plan.asked)
    first = next(iter(found.looks.values()))
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=f"blink.tune: {plan.backbone.path}",
            about="; ".join(f"{asked.benchmark.title}: {asked.data}" for asked in plan.asked)
            + f"; {searched:,} questions searched on, {sum(len(asked.held_out) for asked in plan.asked):,} held out",
            warnings=plan.warnings,
            beats=choice.beats,
            chosen=choice.chosen.held_out.setting.name,
            reason=choice.reason,
            preset=(folder / PRESET).read_text(encoding="utf-8"),
            preset_file=str(folder / PRESET),
            vanilla_accuracy=f"{found.vanilla_held_out.accuracy.value:.2f}",
            held_out=sum(len(asked.held_out) for asked in plan.asked),
            level=choice.level,
            finalists=rows,
            cost_name="FLOPs over vanilla's" if counted else "expansions per question",
            parts=parts,
            tried=len(distinct(found.trials)),
            trials=len(found.trials),
            searched=searched,
            searched_vanilla=f"{found.vanilla.accuracy.value:.2f}",
            search_plot=_address(_search_plot(found)),
            boxed=f"{first.boxed:,}",
            look_plot=_address(look_plot(found.looks)),
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def _trial_record(trial: Trial, vanilla: Answered) -> dict[str, Any]:
    answered = trial.answered
    gain = answered.gain_over(vanilla)
    return {
        "trial": trial.number,
        **_setting_record(answered),
        **_gain_record(gain),
        **_cost_record(answered, vanilla),
    }


def _finalist_record(one: Finalist, found: Found) -> dict[str, Any]:
    parts = one.held_out.gains_by_part(found.vanilla_held_out)
    return {
        **_setting_record(one.held_out),
        "searched_gain": round(one.searched.gain_over(found.vanilla).value, 4),
        **_gain_record(one.gain),
        "error": round(one.error, 4),
        "beats_vanilla": one.beats,
        "near_best": one.near,
        "chosen": one is found.choice.chosen,
        **_cost_record(one.held_out, found.vanilla_held_out),
        **({f"gain_{name}": round(gain.value, 4) for name, gain in parts.items()} if len(parts) > 1 else {}),
    }


def _setting_record(answered: Answered) -> dict[str, Any]:
    policy = answered.setting.policy
    assert policy is not None
    return {
        "method": answered.setting.method,
        "layers": layers_text(policy.layers),
        "tau_exp": policy.tau_exp,
        "tau_drop": policy.tau_drop,
        "patches": policy.patches,
        "positions": policy.positions,
        "accuracy": round(answered.accuracy.value, 4),
    }


def _gain_record(gain: Estimate) -> dict[str, Any]:
    return {"gain": round(gain.value, 4), "gain_low": round(gain.low, 4), "gain_high": round(gain.high, 4)}


def _cost_record(answered: Answered, vanilla: Answered) -> dict[str, Any]:
    relative = (
        None if answered.flops is None or not vanilla.flops else round(answered.flops / vanilla.flops, 5)
    )
    return {
        "expanded": round(answered.expanded, 5),
        "gflops": None if answered.flops is None else answered.flops / 1e9,
        "flops_over_vanilla": relative,
    }


def look_plot(looks: Mapping[int, Look]) -> Figure:
    """Ratio and, where boxes are known, share of right regions against the layer: a line for each number of patches."""
    boxed = any(look.boxed for look in looks.values())
    with styled():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        axes = figure.subplots(1, 2 if boxed else 1, squeeze=False)[0]
        for style, look in zip(series_styles(len(looks)), looks.values(), strict=True):
            records = look_table({look.patches: look})
            name, layers = f"{look.patches} x {look.patches} regions", look.layers
            axes[0].fill_between(
                layers,
                [record["ratio_quartile_low"] for record in records],
                [record["ratio_quartile_high"] for record in records],
                color=style.colour,
                alpha=0.2,
                linewidth=0,
            )
            axes[0].plot(
                layers,
                [record["ratio_median"] for record in records],
                color=style.colour,
                linestyle=style.dash,
                label=name,
            )
            if look.boxed:
                shares = [100 * record["right"] for record in records]
                axes[1].plot(
                    layers,
                    shares,
                    color=style.colour,
                    linestyle=style.dash,
                    marker=style.marker,
                    label=name,
                )
                axes[1].axhline(100 / look.patches**2, color=style.colour, linestyle=":")
        axes[0].set(xlabel="layer", ylabel="ratio of the hottest region\n(median and quartiles)")
        legend_above(axes[0])
        if boxed:
            axes[1].set(xlabel="layer", ylabel="hottest region is right (%)\n(dotted: chance)")
            legend_above(axes[1])
    return figure


def _search_plot(found: Found) -> Figure:
    answered = distinct(found.trials)
    cost, counted = cost_of(answered), all(one.flops is not None for one in answered)
    unit = (found.vanilla.flops or 1) if counted else 1
    with styled():
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=GREY, linestyle=":")
        methods = list(dict.fromkeys(one.setting.method for one in answered))
        for style, method in zip(series_styles(len(methods)), methods, strict=True):
            shown = [one for one in answered if one.setting.method == method]
            gains = [one.gain_over(found.vanilla).value for one in shown]
            costs = [cost(one) / unit for one in shown]
            axes.scatter(costs, gains, color=style.colour, marker=style.marker, s=18, label=method)
        for number, one in enumerate(found.choice.finalists):
            gain = one.gain
            where = cost(one.held_out) / ((found.vanilla_held_out.flops or 1) if counted else 1)
            chosen = one is found.choice.chosen
            axes.errorbar(
                [where],
                [gain.value],
                [[part] for part in reach(*gain)],
                color="black" if chosen else GREY,
                marker="D" if chosen else "s",
                capsize=3,
                label="chosen, held out" if chosen else ("finalists, held out" if number in (0, 1) else None),
            )
        axes.set(
            xlabel="FLOPs over vanilla's" if counted else "expansions per question",
            ylabel="gain over vanilla in points\n(of finalists with its 95 % interval)",
        )
        legend_above(axes)
    return figure


def _address(figure: Figure) -> str:
    content = io.BytesIO()
    with styled():
        figure.savefig(content, format="png", dpi=120)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _interval(gain: Estimate) -> str:
    return f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
