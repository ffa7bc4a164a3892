"""`python -m blink.demo`: a page on which to try Blink in a browser.

Thin: it reads the config, has all of it checked before any weight is read, and hands it on. Heavy imports wait until
they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from blink.runs.command import Job, check_installed, hydra_command

log = logging.getLogger(__name__)


@hydra_command("demo")
def main(config: DictConfig, job: Job) -> None:
    """Serve the page until a signal ends it."""
    job.refuse_several("one command shows one model; start another on another port")
    from blink.evaluation.planning.asking import with_preset_file
    from blink.integrations.demo.plan import make_plan
    from blink.integrations.server.plan import listen, url_of

    shown = make_plan(with_preset_file(config, job.overrides), job.overrides)
    check_installed("demo", "gradio", "uvicorn")
    taken = listen(shown.host, shown.port)
    from blink.integrations.demo.app import make_app, serve

    with taken:
        backbone = shown.backbone.load()
        app = make_app(shown, backbone)
        log.info("%s", shown.line)
        log.info("showing %s on %s (Ctrl-C ends it)", shown.name, url_of(taken))
        serve(app, taken)


if __name__ == "__main__":
    main()
