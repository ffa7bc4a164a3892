"""`python -m blink.demo`: a page on which to try Blink in a browser.

Thin: it reads the config, has all of it checked before any weight is read, and hands it on. Heavy imports wait until
they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from blink.runs.command import hydra_command, one_line_errors
from blink.runs.overrides import reject_added_keys
from blink.runs.values import UserError

log = logging.getLogger(__name__)


@hydra_command("demo")
def main(config: DictConfig) -> None:
    """Serve the page until a signal ends it."""
    overrides = list(HydraConfig.get().overrides.task)
    with one_line_errors():
        reject_added_keys(overrides)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError("--multirun: one command shows one model; start another on another port")
        from blink.evaluation.planning.asking import with_preset_file
        from blink.integrations.demo.plan import make_plan
        from blink.integrations.server.plan import listen, url_of

        shown = make_plan(with_preset_file(config, overrides), overrides)
        try:
            import gradio  # noqa: F401
            import uvicorn  # noqa: F401
        except ModuleNotFoundError as error:
            raise UserError(f"{error.name} is missing: pip install 'blink-mllm[demo]'") from error
        taken = listen(shown.host, shown.port)
    from blink.integrations.demo.app import make_app, serve

    with taken:
        backbone = shown.backbone.load()
        with one_line_errors():
            app = make_app(shown, backbone)
        log.info("%s", shown.line)
        log.info("showing %s on %s (Ctrl-C ends it)", shown.name, url_of(taken))
        serve(app, taken)


if __name__ == "__main__":
    main()
