"""Trackio behind the interface of Lightning's loggers. Knows nothing of what is logged.

Trackio says on stdout what it does, and warns where it fails: here the first is dropped, and the second is an error,
which the board warns of once.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from threading import Thread
from typing import Any

from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


class TrackioLogger(Logger):
    """Logs to one run of Trackio, or, in processes other than the first, nowhere.

    Args:
        run: what `trackio.init` returned; None logs nowhere.
        warned: whether it was said already that a server is not reached, for which Trackio keeps what it is to get.
    """

    def __init__(self, run: Any = None, *, warned: bool = False) -> None:
        super().__init__()
        self._run, self._warned = run, warned

    @property
    def name(self) -> str | None:
        """The project."""
        return None if self._run is None else str(self._run.project)

    @property
    def version(self) -> str | None:
        """The run's name in the project."""
        return None if self._run is None else str(self._run.name)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Add to the run's config, which Trackio keeps with the first metrics that are logged."""
        if self._run is not None:
            self._run.config.update(params)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers, and what of `trackio` is shown otherwise: `Image`, `Histogram`, `Table`.

        Raises:
            RuntimeError: Trackio says that it does not take them.
        """
        if self._run is not None:
            with _heard():
                named = {
                    name: value for name, value in metrics.items() if name != "step"
                }  # the name is Trackio's
                self._run.log(named, step=step)

    def finish(self) -> None:
        """Write what is left; nothing is logged afterwards.

        Raises:
            RuntimeError: Trackio says that it cannot.
        """
        if self._run is not None:
            with suppress(RuntimeError) if self._warned else nullcontext(), _heard():
                self._run.finish()


def started(seconds: float, **arguments: Any) -> TrackioLogger:
    """Return the logger of the run that `trackio.init` makes, or continues, with these arguments.

    Args:
        seconds: how long it may take: with a token of the Hugging Face hub it asks there for the user's name, and for
            the Space if TRACKIO_SPACE_ID names one.

    Raises:
        TimeoutError: it takes longer.
        Exception: what Trackio raises.
    """
    import trackio  # takes a second or two

    found: list[Any] = []

    def start() -> None:
        try:
            found.append(trackio.init(embed=False, auto_log_gpu=False, auto_log_cpu=False, **arguments))
        except Exception as error:  # raised again in the thread that asked
            found.append(error)

    warned = False
    try:
        with _heard():
            # In a thread Trackio knows no current run, which it would end with words on stdout when the process ends.
            thread = Thread(target=start, daemon=True)
            thread.start()
            thread.join(seconds)
    except RuntimeError as warning:
        log.warning("Trackio: %s", warning)
        warned = True
    if not found:
        raise TimeoutError(f"no run after {seconds:g} s")
    [run] = found
    if isinstance(run, Exception):
        raise run
    return TrackioLogger(run, warned=warned)


@contextmanager
def _heard() -> Iterator[None]:
    """Context of a call of Trackio: its words are dropped, and its warnings are raised.

    Raises:
        RuntimeError: it warned.
    """
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        yield
    said = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    if said:
        raise RuntimeError(" ".join("; ".join(said).split()))
