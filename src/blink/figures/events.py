"""Pictures of what Blink did, drawn from recorded events: no model is needed."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from blink.bench import Row, Sample
from blink.figures.style import BLACK, BLUE, VERMILLION, plain
from blink.policy import Event, Policy

ACTION_STYLE = {"expand": (VERMILLION, "-"), "keep": (BLUE, "--"), "drop": (BLACK, ":")}
"""Colour and line style of each action."""


def event_strip(
    image: Image.Image, events: Sequence[Event], patches: int, thresholds: tuple[float, float], title: str
) -> Figure:
    """One answer: the picture once per scanned layer with the region acted on, and the ratio per layer below.

    Args:
        image: the square that the backbone saw.
        events: of one sample, in layer order; may be empty.
        patches: p; regions are the cells of p x p, row-major.
        thresholds: (tau_exp, tau_drop) as applied, that is, scaled to p.
        title: question and answer.
    """
    columns = max(1, len(events))
    figure = Figure(figsize=(max(4.5, 1.7 * columns), 4.6), layout="constrained")
    figure.suptitle(plain(title), fontsize="medium")
    rows = figure.add_gridspec(2, columns, height_ratios=(2, 1.4))
    side_x, side_y = image.width / patches, image.height / patches
    for column in range(columns):
        axes = figure.add_subplot(rows[0, column])
        axes.imshow(image)
        axes.set_xticks([])
        axes.set_yticks([])
        if not events:
            axes.set_title("no layer was scanned", fontsize="small")
            return figure
        event = events[column]
        colour, style = ACTION_STYLE[event.action]
        corner = (event.region % patches * side_x, event.region // patches * side_y)
        axes.add_patch(
            Rectangle(corner, side_x, side_y, fill=False, edgecolor=colour, linestyle=style, linewidth=2.5)
        )
        axes.set_title(f"layer {event.layer}\n{event.action}", fontsize="small", color=colour)
    axes = figure.add_subplot(rows[1, :])
    places = range(len(events))
    axes.bar(
        places,
        [event.ratio for event in events],
        color=[ACTION_STYLE[e.action][0] for e in events],
        width=0.5,
    )
    for value, name, style in zip(thresholds, ("expand above", "drop below"), ("-", ":"), strict=True):
        axes.axhline(value, color="black", linestyle=style, linewidth=1, label=f"{name} {value:.2f}")
    axes.axhline(
        1 / patches**2, color="grey", linestyle="--", linewidth=1, label=f"uniform {1 / patches**2:.2f}"
    )
    axes.set_xticks(places, [str(event.layer) for event in events])
    axes.set_xlabel("layer")
    axes.set_ylabel("saliency ratio")
    axes.set_xlim(-1, len(events))
    axes.set_ylim(0, 1.35)  # room for the legend
    axes.set_yticks((0, 0.5, 1))
    axes.legend(fontsize="x-small", loc="upper right", ncols=3)
    return figure


def example(
    samples: Sequence[Sample],
    rows: Sequence[Row],
    policy: Policy | None,
    seen: Callable[[Image.Image], Image.Image],
) -> Figure:
    """One answer of an evaluation: the first that expanded, else the first.

    Args:
        rows: one per sample, in their order.
        seen: from a picture to the part of it that the backbone saw.
    """
    chosen = next((n for n, row in enumerate(rows) if _expanded(row)), 0)
    sample, row = samples[chosen], rows[chosen]
    used = policy or Policy(layers=[0])  # without events nothing of it is drawn
    title = f"{row['question'].splitlines()[0]}\n{row['response']} (right: {row['label']})"
    events = [Event(**event) for event in row["events"]]
    return event_strip(seen(sample.load_image()), events, used.patches, used.thresholds, title)


def _expanded(row: Row) -> bool:
    return any(event["action"] == "expand" for event in row["events"])
