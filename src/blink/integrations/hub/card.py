"""The model card of TokenSR modules: metadata for the hub's search, how to load them, what they achieve, how they were made."""

from importlib.resources import files
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blink.integrations.hub.facts import Facts
from blink.model.token_sr import make_token_sr
from blink.model.token_sr.source import SHIPPED
from blink.runs.style import INTERP, TOKEN_SR, look

LIBRARY = "blink-mllm"
TAGS = ("blink", "token-super-resolution", "visual-tokens", "vision-language-model", "multimodal")
PLOT = "kl_per_layer.png"
CARD = "README.md"


def model_card(facts: Facts, repo: str, license: str | None) -> str:
    """Write the README.md of a repository: YAML metadata and Markdown.

    Args:
        repo: id that the modules will have on the hub.
        license: of the modules, as the hub names licences; None names none.
    """
    template = files("blink.integrations.hub").joinpath("templates/card.md").read_text(encoding="utf-8")
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    text = environment.from_string(template).render(
        facts=facts,
        config=facts.config,
        repo=repo,
        name=repo.rpartition("/")[2],
        license=license,
        loads=facts.backbone
        if facts.base_model or facts.backbone == SHIPPED
        else f"PATH/TO/{facts.backbone}",
        plot=PLOT,
        layers=_as_python(facts.config.layers),
        spoken=_in_words(facts.config.layers),
        parameters=_parameters(facts),
        kinds=", ".join(f"{name} {_plain(value)}" for name, value in facts.config.sizes.items()),
        answered=facts.summary is not None and facts.summary.answered,
    )
    return f"---\n{metadata(facts, license).to_yaml()}\n---\n\n{text}"


def metadata(facts: Facts, license: str | None) -> ModelCardData:
    """What the hub searches by. Nothing on the hub can run such modules by themselves: there is no widget."""
    more: dict[str, Any] = {"base_model_relation": "adapter"} if facts.base_model else {}
    return ModelCardData(
        library_name=LIBRARY,
        base_model=facts.base_model,
        license=license,
        pipeline_tag="image-text-to-text",
        tags=list(TAGS),
        datasets=[facts.dataset] if facts.dataset else None,
        inference=False,
        **more,
    )


def check_card(text: str) -> None:
    """Raise ValueError where a card of the user's own cannot be read as Markdown with YAML metadata."""
    _ = ModelCard(text).data.to_dict()


def kl_plot(facts: Facts) -> Figure:
    """KL to the teacher on held-out images per layer, of plain interpolation and of TokenSR."""
    layers = sorted(facts.measures)
    with look():
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes: Axes = figure.subplots()
        for line, measure in ((INTERP, "kl_interpolation"), (TOKEN_SR, "kl_token_sr")):
            axes.plot(
                layers,
                [facts.measures[layer][measure] for layer in layers],
                color=line.colour,
                linestyle=line.dash,
                marker=line.marker,
                label=line.label,
            )
        axes.set_xlabel("decoder layer")
        axes.set_ylabel("KL to the teacher")
        axes.set_ylim(bottom=0)
        axes.set_xticks(layers if len(layers) <= 20 else layers[:: len(layers) // 16])
        axes.set_title("Held-out images: lower is closer to the region seen at full resolution")
        figure.legend(loc="outside right center")
    return figure


def _parameters(facts: Facts) -> int:
    """Of one module."""
    import torch

    with torch.device("meta"):
        module = make_token_sr(facts.config.kind, facts.config.channels, facts.config.sizes)
    return sum(weight.numel() for weight in module.parameters())


def _as_python(layers: tuple[int, ...]) -> str:
    """Layers as an argument of `blink.Policy`."""
    run = len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1))
    return f"range({layers[0]}, {layers[-1] + 1})" if run else str(list(layers))


def _in_words(layers: tuple[int, ...]) -> str:
    """Layers as an override of the commands."""
    run = len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if run else ", ".join(map(str, layers))


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
