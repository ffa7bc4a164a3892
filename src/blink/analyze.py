"""`python -m blink.analyze figure=NAME`: the paper's figures.

Thin: all settings are checked before any weight is read, and a figure whose inputs did not change since it was drawn is
returned as it is. Heavy imports wait until they are needed, so that `--help` is quick.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from blink.runs.command import hydra_command, one_line_errors, plain, reject_added_keys
from blink.runs.files import read_json, write_json
from blink.runs.folder import INPUTS, given_folder, open_run
from blink.runs.provenance import provenance

log = logging.getLogger("blink.analyze")  # not __main__, which `python -m` calls it


@hydra_command("analyze")
def main(config: DictConfig) -> None:
    """Draw one figure, or return it if it was drawn before from the same inputs."""
    from blink.analysis.figures.plan import make_plan
    from blink.evaluation.checks import reject_training_keys
    from blink.runs.style import look, save

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every glyph of a PDF
    overrides = list(HydraConfig.get().overrides.task)
    with one_line_errors():
        reject_added_keys(overrides)
        reject_training_keys(overrides)
        plan = make_plan(config)
        folder = open_run(
            Path(config.outputs),
            "analyze",
            overrides,
            plain(config),
            fresh=config.fresh,
            wait=config.wait,
            given=given_folder(HydraConfig.get()),
        )
        files = drawn_before(folder, plan.inputs)
    record = provenance("analyze", overrides, seed=config.seed, inputs=plan.inputs)
    if files is None:
        drawn = plan.draw()
        drawn = drawn._replace(numbers={**drawn.numbers, "provenance": record})
        with look():
            files = save(drawn, config.figure.name, folder)
    write_json(folder / INPUTS, {"inputs": plan.inputs, "files": files})
    for file in files:
        print(folder / file)


def drawn_before(folder: Path, inputs: Mapping[str, Any]) -> list[str] | None:
    """The files of a figure that was drawn from the same inputs; None if it has to be drawn."""
    path = folder / INPUTS
    if not path.exists():
        return None
    before = read_json(path)
    if before["inputs"] != json.loads(json.dumps(inputs)):
        log.info("drawn before from other inputs: drawing anew")
        return None
    files: list[str] = before["files"]
    if not all((folder / file).exists() for file in files):
        return None
    log.info("drawn before: %s", folder)
    return files


if __name__ == "__main__":
    main()
