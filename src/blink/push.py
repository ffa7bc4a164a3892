"""`python -m blink.push`: TokenSR modules onto the Hugging Face hub, with a model card.

Heavy imports wait until they are needed, so that `--help` is quick.
"""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from blink.runs.command import Job, hydra_command
from blink.runs.config.settings import Keys, plain
from blink.runs.files import make_folder
from blink.runs.lock import lock
from blink.runs.values import flag, path

log = logging.getLogger("blink.push")  # not __main__, which `python -m` calls it

_ARGUMENTS = ("base_model", "license", "private", "revision", "message", "card", "dry_run")
"""Keys that are arguments of `push_token_sr` as they stand."""


@hydra_command("push")
def main(config: DictConfig, job: Job) -> None:
    """Upload modules, or write what would be uploaded."""
    from blink.integrations.hub.upload import check_repo, push_token_sr

    settings = Keys(plain(config, complete=True))
    repo = check_repo(settings["repo"])
    wait = flag("wait", settings["wait"])
    folder = job.given or path("outputs", settings["outputs"]) / "push" / repo.replace("/", "--")
    make_folder(folder.parent)
    lock(folder, wait=wait)
    pushed = push_token_sr(
        settings["token_sr"], repo, folder=folder, **{key: settings[key] for key in _ARGUMENTS}
    )
    for name in pushed.files:
        print(folder / name)
    if pushed.url is None:
        print(f"dry run: nothing was uploaded; without dry_run=true these files go to {repo}")
    else:
        print(f"uploaded: {pushed.url}")
        print(
            f"token_sr={pushed.token_sr} loads these modules, token_sr={repo} the newest of its main branch"
        )


if __name__ == "__main__":
    main()
