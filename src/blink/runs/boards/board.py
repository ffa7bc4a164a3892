"""Logging of one run: one interface to Lightning's loggers, for what W&B, Trackio, TensorBoard and CSV can each show.

Numbers go to every logger; pictures and histograms to all but CSV; tables and charts to W&B and Trackio. What a logger
cannot show is left out, and one that fails is warned of once and left alone from there on: what it shows is in the run's
folder, too. Knows nothing of models, training or benchmarks.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from blink.runs.boards.trackio_run import TrackioLogger
from blink.runs.values import UserError, whole_number

log = logging.getLogger(__name__)

P = ParamSpec("P")


class Axis(NamedTuple):
    """The x axis of logged values, such as the layer or the number of answers, and their x coordinate."""

    name: str
    at: float


class Chart(NamedTuple):
    """A line chart: the points (x, y) of each line, by name, from left to right."""

    title: str
    x_name: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def _spared(method: Callable[Concatenate["Board", P], None]) -> Callable[Concatenate["Board", P], None]:
    """A method of `Board` whose failures cost the dashboard, not the run."""

    @wraps(method)
    def spared(board: "Board", *args: P.args, **kwargs: P.kwargs) -> None:
        with board.spared():
            method(board, *args, **kwargs)

    return spared


class Board:
    """Logs a run to one logger, or nowhere. A context manager that closes the logger, as failed after an exception.

    Args:
        logger: Lightning's for W&B, TensorBoard or CSV, or Trackio's; None logs nowhere.
        pictures_every: optimizer steps between two pictures of a training run's features; 0: none.
        table_rows: rows of a table with pictures at most.
        table_pixels: the longer side of its pictures at most.

    Raises:
        ValueError: a size is no whole number, or negative, or a table is wanted whose pictures have no size.
    """

    def __init__(
        self,
        logger: Logger | None = None,
        *,
        pictures_every: int = 0,
        table_rows: int = 0,
        table_pixels: int = 0,
    ) -> None:
        sizes = {"pictures_every": pictures_every, "table_rows": table_rows, "table_pixels": table_pixels}
        for name, value in sizes.items():
            whole_number(f"logger.{name}", value, least=0)
        if table_rows and not table_pixels:
            raise UserError(
                f"logger.table_pixels=0 with logger.table_rows={table_rows}: table_rows=0 leaves the table out"
            )
        self.logger = logger
        self.pictures_every, self.table_rows, self.table_pixels = pictures_every, table_rows, table_pixels

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        self.close(failed=error is not None)

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Context of what makes and logs values: whatever it raises ends the logging, with a warning, and not the run."""
        try:
            yield
        except Exception as error:  # client libraries raise what they like
            if self.logger is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            log.warning(
                "the dashboard fails (%s: %s); the run goes on without it",
                type(error).__name__,
                " ".join(str(error).split()),
            )
            failed, self.logger = self.logger, None
            with suppress(Exception):
                _close(failed, failed=True)

    @property
    def shows_pictures(self) -> bool:
        """Whether the logger can show pictures and histograms."""
        return isinstance(self.logger, WandbLogger | TrackioLogger | TensorBoardLogger)

    @property
    def shows_tables(self) -> bool:
        """Whether the logger can show tables and charts."""
        return isinstance(self.logger, WandbLogger | TrackioLogger)

    @_spared
    def settings(self, values: Mapping[str, Any]) -> None:
        """Log the run's config and what follows from it, as hyperparameters."""
        if self.logger is not None:
            self.logger.log_hyperparams(dict(values))

    @_spared
    def axis(self, name: str, *sections: str) -> None:
        """Declare `name` the x axis of all numbers of some sections; a section is what stands before a name's first `/`."""
        if isinstance(self.logger, WandbLogger):
            run = self.logger.experiment
            run.define_metric(name, hidden=True, summary="none")
            for section in sections:
                run.define_metric(f"{section}/*", step_metric=name)

    @_spared
    def best(self, name: str, summary: str, axis: str) -> None:
        """Declare which value of a number represents the run in lists of runs.

        Args:
            name: of the number.
            summary: "min" or "max".
            axis: name of its x axis.
        """
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.define_metric(name, step_metric=axis, summary=summary)

    @_spared
    def numbers(self, values: Mapping[str, float | None], axis: Axis | None = None) -> None:
        """Log numbers at one point of their x axis; those that are None or nan are left out."""
        known = {
            name: float(value)
            for name, value in values.items()
            if value is not None and not math.isnan(value)
        }
        if self.logger is None or not known:
            return
        if isinstance(self.logger, WandbLogger):
            self._log_to_wandb(known, axis)
        elif axis is None:
            self.logger.log_metrics(known)
        else:
            has_axes = isinstance(self.logger, CSVLogger | TrackioLogger)
            row = {axis.name: axis.at, **known} if has_axes else known
            self.logger.log_metrics(row, step=round(axis.at))

    @_spared
    def pictures(
        self, pictures: Mapping[str, Image.Image], axis: Axis | None = None, caption: str | None = None
    ) -> None:
        """Log pictures, by name."""
        if isinstance(self.logger, WandbLogger):
            import wandb

            shown = {name: wandb.Image(picture, caption=caption) for name, picture in pictures.items()}
            self._log_to_wandb(shown, axis)
        elif isinstance(self.logger, TrackioLogger):
            import trackio

            shown = {name: trackio.Image(picture, caption=caption) for name, picture in pictures.items()}
            self._log_to_trackio(shown, axis)
        elif isinstance(self.logger, TensorBoardLogger):
            for name, picture in pictures.items():
                self.logger.experiment.add_image(
                    name,
                    np.asarray(picture.convert("RGB")),
                    None if axis is None else round(axis.at),
                    dataformats="HWC",
                )

    @_spared
    def histogram(
        self, name: str, values: Sequence[float], edges: Sequence[float], axis: Axis | None = None
    ) -> None:
        """Log a histogram of values with given bin edges; values outside are left out."""
        if isinstance(self.logger, WandbLogger):
            import wandb

            shown = {name: wandb.Histogram(np_histogram=np.histogram(values, bins=list(edges)))}
            self._log_to_wandb(shown, axis)
        elif isinstance(self.logger, TrackioLogger):
            import trackio

            counted = trackio.Histogram(np_histogram=np.histogram(values, bins=list(edges)))
            self._log_to_trackio({name: counted}, axis)
        elif isinstance(self.logger, TensorBoardLogger):
            self.logger.experiment.add_histogram(
                name, np.asarray(values), None if axis is None else round(axis.at), bins=np.asarray(edges)
            )

    @_spared
    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Log a table; each column holds numbers, texts or pictures, or None."""
        if isinstance(self.logger, WandbLogger):
            import wandb

            cells = [
                [wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row] for row in rows
            ]
            self.logger.experiment.log({name: wandb.Table(list(columns), cells)})
        elif isinstance(self.logger, TrackioLogger):
            import trackio

            cells = [
                [trackio.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row]
                for row in rows
            ]
            self._log_to_trackio({name: trackio.Table(list(columns), cells)})

    @_spared
    def chart(self, name: str, chart: Chart) -> None:
        """Log a line chart; where there are none, as a table of its points."""
        if isinstance(self.logger, WandbLogger):
            import wandb

            drawn = wandb.plot.line_series(
                [[x for x, _ in points] for points in chart.lines.values()],
                [[y for _, y in points] for points in chart.lines.values()],
                list(chart.lines),
                chart.title,
                chart.x_name,
                split_table=True,
            )
            self.logger.experiment.log({name: drawn})
        elif isinstance(self.logger, TrackioLogger):
            points = [(line, x, y) for line, found in chart.lines.items() for x, y in found]
            self.table(name, ["line", chart.x_name, chart.title], points)

    @_spared
    def summary(self, values: Mapping[str, float | str]) -> None:
        """Set values that represent the whole run in lists of runs."""
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.summary.update(dict(values))
        elif isinstance(self.logger, TrackioLogger):
            self._log_to_trackio(values)

    def _log_to_wandb(self, values: Mapping[str, Any], axis: Axis | None) -> None:
        assert isinstance(self.logger, WandbLogger), "logs to W&B"
        self.logger.experiment.log({**({} if axis is None else {axis.name: axis.at}), **values})

    def _log_to_trackio(self, values: Mapping[str, Any], axis: Axis | None = None) -> None:
        assert isinstance(self.logger, TrackioLogger), "logs to Trackio"
        self.logger.log_metrics(values, None if axis is None else round(axis.at))

    def close(self, *, failed: bool = False) -> None:
        """Write what is left and end the logger's run, so that the next run of this process begins its own."""
        if self.logger is not None:
            with self.spared():
                _close(self.logger, failed)


def _close(logger: Logger, failed: bool) -> None:
    logger.save()
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))
    elif isinstance(logger, TrackioLogger):
        logger.finish()
    else:
        logger.finalize("failed" if failed else "success")
