"""What makes a drawn figure hard to read: error bars under a legend, and texts that are cut off or lie on each other."""

from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_SLACK = 1.0
"""Pixels."""


def faults(figure: Figure) -> list[str]:
    """What is hard to read in a figure, in words; empty if nothing is."""
    FigureCanvasAgg(figure).draw()
    found = []
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]
    for legend in legends:
        box = legend.get_window_extent()
        for axes in figure.axes:
            found += [f"an error bar crosses {_words(legend)}" for bar in _bars(axes) if _meet(bar, box)]
    texts = list(_texts(figure))
    boxes = [text.get_window_extent() for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        inside = Bbox.from_extents(*(figure.bbox.padded(_SLACK).extents))
        if not (inside.contains(*box.min) and inside.contains(*box.max)):
            found.append(f"{text.get_text()!r} is cut off")
    for i, (text, box) in enumerate(zip(texts, boxes, strict=True)):
        for other, there in zip(texts[i + 1 :], boxes[i + 1 :], strict=True):
            if not text.get_rotation() % 90 and not other.get_rotation() % 90 and _meet(box, there):
                found.append(f"{text.get_text()!r} lies on {other.get_text()!r}")
    return found


def _bars(axes: Axes) -> Iterator[Bbox]:
    """Each error bar of axes, in pixels."""
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            for collection in container[2]:
                transform = collection.get_transform()
                for path in collection.get_paths():
                    yield Bbox.from_extents(*path.transformed(transform).get_extents().extents)


def _texts(figure: Figure) -> Iterator[Text]:
    """The texts that are drawn: a tick outside of the limits keeps its label, which nobody sees."""
    parts = figure.findobj(SubFigure)
    found = [text for part in (figure, *parts) for text in part.texts]
    for axes in figure.axes:
        found += [*axes.texts, *((legend.get_texts()) if (legend := axes.get_legend()) else [])]
        if axes.axison:
            found += [axes.title, axes.xaxis.label, axes.yaxis.label]
            both: Any = (axes.xaxis, axes.yaxis)
            for axis in both:
                found += [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)]
    found += [text for legend in figure.legends for text in legend.get_texts()]
    return (text for text in dict.fromkeys(found) if text.get_visible() and text.get_text().strip())


def _meet(one: Bbox, other: Bbox) -> bool:
    """Whether two boxes share more than an edge; bars have no width."""
    return (
        one.x0 < other.x1 - _SLACK
        and other.x0 < one.x1 - _SLACK * (one.width > 0)
        and one.y0 < other.y1 - _SLACK
        and other.y0 < one.y1 - _SLACK * (one.height > 0)
    )


def _words(legend: Legend) -> str:
    return f"the legend {[text.get_text() for text in legend.get_texts()]}"
