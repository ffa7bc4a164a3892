"""`python -m blink.serve`: a server for OpenAI's clients, which answers with Blink.

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


@hydra_command("serve")
def main(config: DictConfig) -> None:
    """Serve until a signal ends it."""
    overrides = list(HydraConfig.get().overrides.task)
    with one_line_errors():
        reject_added_keys(overrides)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError("--multirun: one command serves one model; start another on another port")
        try:
            import fastapi  # noqa: F401
            import uvicorn
        except ModuleNotFoundError as error:
            raise UserError(f"{error.name} is missing: pip install 'blink-mllm[serve]'") from error
        from blink.evaluation.planning.asking import with_preset_file
        from blink.integrations.server.plan import listen, make_plan, url_of

        serving = make_plan(with_preset_file(config, overrides), overrides)
        taken = listen(serving.host, serving.port)
    from blink.integrations.server.app import make_app

    with taken:
        backbone = serving.backbone.load()
        with one_line_errors():
            app = make_app(serving, backbone)
        log.info("%s", serving.line)
        log.info("serving %s on %s/v1 (Ctrl-C ends it)", " and ".join(serving.runs), url_of(taken))
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[taken])


if __name__ == "__main__":
    main()
