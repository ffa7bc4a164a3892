"""One run's place in a dashboard: numbers, pictures, histograms, tables and charts, as far as each logger shows them.

Numbers go to every logger; pictures and histograms to W&B and TensorBoard; tables and charts to W&B alone. Knows nothing
of models, training or benchmarks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image


class Axis(NamedTuple):
    """What values are drawn against: its name, and where on it they lie."""

    name: str
    at: float


class Chart(NamedTuple):
    """Lines over a common axis: points (x, y) of each, from left to right."""

    title: str
    x_name: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


class Board:
    """Tells a logger; without one it tells nobody. As a context it closes itself, as failed if an error ends it.

    Args:
        logger: of W&B, TensorBoard or CSV; None is nobody.
        pictures_every: optimizer steps between two pictures of a training run's features; 0: none.
        table_rows: rows of a table with pictures at most.
        table_pixels: the longer side of its pictures at most.

    Raises:
        ValueError: a size is no whole number, or negative.
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
            if type(value) is not int or value < 0:
                raise ValueError(f"logger.{name}={value!r}: expected a whole number of at least 0")
        if table_rows and not table_pixels:
            raise ValueError(
                f"logger.table_pixels=0 with logger.table_rows={table_rows}: table_rows=0 leaves the table out"
            )
        self.logger = logger
        self.pictures_every, self.table_rows, self.table_pixels = pictures_every, table_rows, table_pixels

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        self.close(failed=error is not None)

    @property
    def shows_pictures(self) -> bool:
        """Whether the logger has a place for pictures and histograms."""
        return isinstance(self.logger, WandbLogger | TensorBoardLogger)

    @property
    def shows_tables(self) -> bool:
        """Whether the logger has a place for tables and charts."""
        return isinstance(self.logger, WandbLogger)

    def settings(self, values: Mapping[str, Any]) -> None:
        """Say what the run was asked to do."""
        if self.logger is not None:
            self.logger.log_hyperparams(dict(values))

    def axis(self, name: str, *sections: str) -> None:
        """Declare that all numbers of some sections (what stands before the first `/`) are drawn against `name`."""
        if isinstance(self.logger, WandbLogger):
            run = self.logger.experiment
            run.define_metric(name, hidden=True, summary="none")
            for section in sections:
                run.define_metric(f"{section}/*", step_metric=name)

    def best(self, name: str, summary: str, axis: str) -> None:
        """Declare what of a number's course stands for the run: "min" or "max".

        Args:
            axis: what it is drawn against.
        """
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.define_metric(name, step_metric=axis, summary=summary)

    def numbers(self, values: Mapping[str, float | None], axis: Axis | None = None) -> None:
        """Tell numbers that belong together; those that are None or nan are left out."""
        known = {
            name: float(value)
            for name, value in values.items()
            if value is not None and not math.isnan(value)
        }
        if self.logger is None or not known:
            return
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.log(known if axis is None else {axis.name: axis.at, **known})
        elif axis is None:
            self.logger.log_metrics(known)
        else:
            row = {axis.name: axis.at, **known} if isinstance(self.logger, CSVLogger) else known
            self.logger.log_metrics(row, step=round(axis.at))

    def pictures(
        self, pictures: Mapping[str, Image.Image], axis: Axis | None = None, caption: str | None = None
    ) -> None:
        """Show pictures, by name."""
        if isinstance(self.logger, WandbLogger):
            import wandb

            shown = {name: wandb.Image(picture, caption=caption) for name, picture in pictures.items()}
            self.logger.experiment.log(shown if axis is None else {axis.name: axis.at, **shown})
        elif isinstance(self.logger, TensorBoardLogger):
            for name, picture in pictures.items():
                self.logger.experiment.add_image(
                    name,
                    np.asarray(picture.convert("RGB")),
                    None if axis is None else round(axis.at),
                    dataformats="HWC",
                )

    def histogram(
        self, name: str, values: Sequence[float], edges: Sequence[float], axis: Axis | None = None
    ) -> None:
        """Show how often values fall between edges; those outside are left out."""
        if isinstance(self.logger, WandbLogger):
            import wandb

            shown = {name: wandb.Histogram(np_histogram=np.histogram(values, bins=list(edges)))}
            self.logger.experiment.log(shown if axis is None else {axis.name: axis.at, **shown})
        elif isinstance(self.logger, TensorBoardLogger):
            self.logger.experiment.add_histogram(
                name, np.asarray(values), None if axis is None else round(axis.at), bins=np.asarray(edges)
            )

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Show a table; each column holds numbers, texts or pictures, or None."""
        if isinstance(self.logger, WandbLogger):
            import wandb

            cells = [
                [wandb.Image(cell) if isinstance(cell, Image.Image) else cell for cell in row] for row in rows
            ]
            self.logger.experiment.log({name: wandb.Table(list(columns), cells)})

    def chart(self, name: str, chart: Chart) -> None:
        """Show lines as a chart."""
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

    def summary(self, values: Mapping[str, float | str]) -> None:
        """Set what stands for the whole run in lists of runs."""
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.summary.update(dict(values))

    def close(self, *, failed: bool = False) -> None:
        """Write what is left, and end the session, so that the next run of this process begins its own."""
        if self.logger is None:
            return
        self.logger.save()
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.finish(exit_code=int(failed))
        else:
            self.logger.finalize("failed" if failed else "success")
