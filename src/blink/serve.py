"""`python -m blink.serve`: a server for OpenAI's clients, which answers with Blink.

Thin: it reads the config, has all of it checked before any weight is read, and hands it on. Heavy imports wait until
they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from blink.runs.command import Job, check_installed, hydra_command

log = logging.getLogger(__name__)


@hydra_command("serve")
def main(config: DictConfig, job: Job) -> None:
    """Serve until a signal ends it."""
    job.refuse_several("one command serves one model; start another on another port")
    check_installed("serve", "fastapi", "uvicorn")
    from blink.evaluation.planning.asking import with_preset_file
    from blink.integrations.server.plan import listen, make_plan, url_of

    serving = make_plan(with_preset_file(config, job.overrides), job.overrides)
    taken = listen(serving.host, serving.port)
    import uvicorn

    from blink.integrations.server.app import make_app

    with taken:
        backbone = serving.backbone.load()
        app = make_app(serving, backbone)
        log.info("%s", serving.line)
        log.info("serving %s on %s/v1 (Ctrl-C ends it)", " and ".join(serving.runs), url_of(taken))
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[taken])


if __name__ == "__main__":
    main()
