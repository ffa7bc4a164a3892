"""What the prompts of a finished run cost on paper, over what the backbone as it is would take for the same prompts.

The run's own config names its backbone and template; of the backbone only config and tokenizer are read. The size of
the pictures is not recorded: for LLaVA-NeXT they are taken as square.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from blink import cost
from blink.checkpoints import load_processor
from blink.compare import Run
from blink.dimensions import Dimensions, image_tokens
from blink.outputs import CONFIG_FILE
from blink.policy import Event
from blink.prepare import outlined
from blink.prompts import template_named


def flops_over_vanilla(run: Run) -> float:
    """FLOPs of the prompt passes of all questions, scans and TokenSR included, over those without Blink.

    Vision tower and decoding are left out.

    Raises:
        ValueError: the run's config, or its backbone's config or tokenizer, cannot be read.
    """
    policy: Mapping[str, Any] | None = run.scores["policy"]
    if policy is None:
        return 1.0
    model = _model_of(run)
    dims = _dimensions(model["path"], model["revision"])
    rows = run.rows()
    lengths = _lengths(
        model["path"], model["revision"], model["template"], tuple(str(row["question"]) for row in rows)
    )
    extension = dims.visual if policy["interpolate"] else dims.visual // policy["patches"] ** 2
    refined = run.scores["token_sr"] is not None
    spent = plain = 0
    for row, tokens in zip(rows, lengths, strict=True):
        actions = tuple((event["layer"], event["action"]) for event in row["events"])
        spent += _prompt(dims, tokens, actions, extension, refined, policy["saliency"])
        plain += _prompt(dims, tokens, (), extension, refined, policy["saliency"])
    return spent / plain


def _model_of(run: Run) -> Mapping[str, Any]:
    path = run.folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{run.folder} holds no {CONFIG_FILE}, which names its backbone and template")
    model: Any = OmegaConf.to_container(OmegaConf.load(path).model)
    return dict(model)


@lru_cache(maxsize=4)
def _dimensions(path: str, revision: str | None) -> Dimensions:
    return Dimensions.of(outlined(path, revision).model.config)


@lru_cache(maxsize=4)
def _lengths(path: str, revision: str | None, template: str, questions: tuple[str, ...]) -> Sequence[int]:
    """Tokens of each prompt, visual ones included."""
    dims = _dimensions(path, revision)
    try:
        tokenizer = load_processor(path, revision=revision).tokenizer
    except OSError as cause:
        raise ValueError(f"the tokenizer of {path} cannot be read: {cause}") from cause
    ids = tokenizer([template_named(template).prompt(question) for question in questions])["input_ids"]
    side = dims.grid[0] * dims.patch
    return [len(one) - 1 + image_tokens(dims, side, side) for one in ids]


@lru_cache(maxsize=65536)
def _prompt(
    dims: Dimensions,
    tokens: int,
    actions: tuple[tuple[int, str], ...],
    extension: int,
    refined: bool,
    saliency: str,
) -> int:
    """FLOPs of one prompt; questions of one length with the same actions share them."""
    events = [Event(layer, 0.0, 0, action) for layer, action in actions]
    expander = cost.token_sr(dims) if refined else cost.Cost()
    return cost.prompt(dims, tokens, events, extension=extension, expander=expander, saliency=saliency).flops
