"""What W&B is told: every run that is begun through `wandb.init`, and what its public methods were called with."""

from typing import Any

import pytest


class ToldRun:
    """A real run of W&B, offline in the tests, that notes what it is told on the way.

    Attributes:
        history: the values of each call of `log`.
        axes: metric, or section/*, -> what it is drawn against (None for an axis itself).
        best: metric -> which of its values stands for the run, where that was said.
        config: key -> value, as W&B holds them at the end.
        summary: key -> value, of those that were set and not logged.
        identity: "id", "group", "job_type", "name" and "project".
        exit_code: what the run was closed with; None while it is open.
    """

    def __init__(self, run: Any) -> None:
        self.history: list[dict[str, Any]] = []
        self.axes: dict[str, str | None] = {}
        self.best: dict[str, str] = {}
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.identity = {name: getattr(run, name) for name in ("id", "group", "job_type", "name", "project")}
        self.exit_code: int | None = None
        log, define, finish, update = run.log, run.define_metric, run.finish, run.summary.update

        def logged(values: dict[str, Any], *arguments: Any, **options: Any) -> None:
            self.history.append(dict(values))
            log(values, *arguments, **options)

        def defined(name: str, *arguments: Any, **options: Any) -> Any:
            self.axes[name] = options.get("step_metric")
            if "step_metric" in options and "summary" in options:
                self.best[name] = options["summary"]
            return define(name, *arguments, **options)

        def updated(values: dict[str, Any]) -> None:
            self.summary.update(values)
            update(values)

        def finished(exit_code: int | None = None, *arguments: Any, **options: Any) -> None:
            self.config = dict(run.config)
            self.exit_code = exit_code
            finish(exit_code, *arguments, **options)

        run.log, run.define_metric, run.finish = logged, defined, finished
        object.__setattr__(run.summary, "update", updated)

    @property
    def ended(self) -> bool:
        """Whether the run was closed, and not as failed."""
        return self.exit_code == 0

    def column(self, name: str) -> list[Any]:
        """All values of a metric, in the order of logging."""
        return [row[name] for row in self.history if name in row]

    def table(self, name: str) -> Any:
        """The last table, or table of a chart's points, of that name: with `columns` and `data`."""
        last = self.column(name)[-1]
        return getattr(last, "table", last)


@pytest.fixture
def told_runs(monkeypatch: pytest.MonkeyPatch) -> list[ToldRun]:
    """All runs of W&B that this test begins, oldest first."""
    import wandb

    runs: list[ToldRun] = []
    init = wandb.init

    def begun(*arguments: Any, **options: Any) -> Any:
        run = init(*arguments, **options)
        runs.append(ToldRun(run))
        return run

    monkeypatch.setattr(wandb, "init", begun)
    return runs
