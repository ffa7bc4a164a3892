"""Blink behind a stock model's `forward` and `generate`: attach, read the trace, disable, detach.

Four methods of one model object are shadowed (`model/shadow.py`); their classes stay as they are, as do all other models.

    LlavaForConditionalGeneration.generate   checks the request; brings a BlinkCache in place of a DynamicCache
    LlavaForConditionalGeneration.forward    remembers the labels, which no other forward is given
        LlavaModel.forward                   at a prompt: finds the spans of each row and remembers them
            LlamaModel.forward               at a prompt: `run_prompt`, Algorithm 1; at a later token: `run_step`

(So the classes of LLaVA are called; those of the other families are nested alike.)

Each calls the stock method, but for the last, which replaces the language model's loop over layers. Embedding, vision
tower, head, loss, sampling and beams remain the stock model's. What a generation needs after its prompt is in its
cache, so generations may interleave.
"""

import copy
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from blink.inference.algorithm import PassOutput, run_prompt, run_step
from blink.inference.cache import NO_PIXELS, BlinkCache
from blink.inference.calls.given import RowFacts
from blink.inference.calls.prompt import Prompt, read_pixels, read_prompt
from blink.inference.calls.refusals import (
    check_generation,
    check_no_image,
    check_outputs,
    check_step,
)
from blink.inference.policy import ACTIONS, Event, Policy, check_policy
from blink.inference.run import Run
from blink.model.backbone import CACHE, Backbone
from blink.model.shadow import Shadow, is_shadowed
from blink.runs.values import UserError

_OUTPUTS = ("use_cache", "output_attentions", "output_hidden_states")
"""Arguments for which the language model's config has defaults."""

# What travels between the nested forwards of a call. As keywords they would reach vision towers and loss functions, too.
_labels: ContextVar[Tensor | None] = ContextVar("blink_labels", default=None)
_prompt: ContextVar[Prompt | None] = ContextVar("blink_prompt", default=None)


class Handle(RowFacts):
    """Blink attached to one model. Made by `attach`.

    Attributes:
        model: the model object.
        policy: what decides the events. Read-only, as `model` is: it was checked against model and modules when
            attached; detach, and attach anew, to change it.
    """

    def __init__(self, backbone: Backbone, policy: Policy, run: Run) -> None:
        super().__init__(backbone)
        self._policy = policy
        self._run = run
        self._enabled = True
        self._trace: list[list[Event]] = []
        self._shadows = {
            "generate": Shadow(self.model, "generate", self._generate),
            "model": Shadow(self.model, "forward", self._remember_labels),
            "core": Shadow(backbone.core, "forward", self._find_spans),
            "decoder": Shadow(backbone.decoder, "forward", self._run_layers),
        }

    def __repr__(self) -> str:
        """Model, policy, modules, whether they are at work, and what happened at the last prompt, in one line."""
        state = ("attached" if self._enabled else "disabled") if self._shadows else "detached"
        of_coarse = "TokenSR" if self._run.modules else "interpolation"
        made_by = "encoded crops" if self.policy.source == "encode" else of_coarse
        counts = Counter(event.action for events in self._trace for event in events)
        told = ", ".join(f"{counts[action]} {action}" for action in ACTIONS if counts[action]) or "no events"
        rows = f"{len(self._trace)} row{'' if len(self._trace) == 1 else 's'} with {told}"
        return (
            f"<blink.Handle: {state}, {type(self.model).__name__}, {self.policy.brief} with {made_by}, "
            f"last prompt: {rows if self._trace else 'none'}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle is detached, as the model in it is stock."""
        return {**vars(self), "_shadows": {}}

    @property
    def model(self) -> Any:
        """The model object."""
        return self._backbone.model

    @property
    def policy(self) -> Policy:
        """What decides the events."""
        return self._policy

    @property
    def trace(self) -> list[list[Event]]:
        """Events of the last prompt: one list per prompt row, one event per scanned layer.

        Beams and returned sequences of a row share its list, which is not repeated. Empty before the first
        prompt and after one inside `disabled()`.
        """
        return [list(events) for events in self._trace]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, prompts run through the stock model. A generation whose prompt ran before keeps its extensions."""
        before, self._enabled = self._enabled, False
        try:
            yield
        finally:
            self._enabled = before

    def detach(self) -> None:
        """Give the model object back as it was; doing so twice is harmless."""
        while self._shadows:
            self._shadows.popitem()[1].remove()

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        """Shadows `generate`: refuse what cannot work, and bring a cache that knows how many rows share a prompt."""
        shadow = self._shadows["generate"]
        if not self._enabled:
            return shadow.stock(*args, **kwargs)
        arguments = shadow.by_name(args, kwargs)
        settings = {
            name: value for name, value in arguments.items() if name not in shadow.__signature__.parameters
        }
        config, _ = self.model._prepare_generation_config(arguments.get("generation_config"), **settings)
        check_generation(config, arguments)
        # Read here, for the forward may see features in place of pixels (transformers 5 encodes pictures first).
        ids_BS = arguments.get("input_ids", arguments.get("inputs"))
        pixels = NO_PIXELS
        if ids_BS is not None:
            pixels = read_pixels(self._backbone, self._run, self._given, {**arguments, "input_ids": ids_BS})
        repeats = max(config.num_beams or 1, config.num_return_sequences or 1)
        arguments[CACHE] = BlinkCache(repeats, pixels)
        if config.cache_implementation is not None:
            # A cache and the name of one are refused together. Beside a generation_config keywords are deprecated.
            given = arguments.get("generation_config")
            if given is not None:
                given = arguments["generation_config"] = copy.copy(given)
                given.cache_implementation = None
            if given is None or self.model.generation_config.cache_implementation is not None:
                arguments["cache_implementation"] = None
            else:
                arguments.pop("cache_implementation", None)
        return shadow.stock(**arguments)

    def _remember_labels(self, *args: Any, **kwargs: Any) -> Any:
        """Shadows the model's forward: the multimodal forward inside it will ask where the prompt ends."""
        shadow = self._shadows["model"]
        token = _labels.set(shadow.by_name(args, kwargs).get("labels"))
        try:
            return shadow.stock(*args, **kwargs)
        finally:
            _labels.reset(token)

    def _find_spans(self, *args: Any, **kwargs: Any) -> Any:
        """Shadows the multimodal forward: find a prompt's spans and pass them on."""
        shadow = self._shadows["core"]
        inputs = shadow.by_name(args, kwargs)
        cache = inputs.get(CACHE)
        if _continues(cache):
            check_no_image(inputs)
            axes = self._backbone.family.axes
            if axes > 1 and inputs.get("position_ids") is None:
                # Left out, the stock model derives them from what the latest prompt has left on it, be it that of another
                # generation, and fails where that had more rows.
                new: Any = inputs.get("input_ids")
                new = inputs.get("inputs_embeds") if new is None else new
                inputs["position_ids"] = cache.stock_positions(new.shape[1]).expand(axes, -1, -1)
            return shadow.stock(**inputs)
        self._trace = []  # also where disabled: the trace is that of the last prompt
        prompt = None
        if self._enabled:
            prompt = read_prompt(self._backbone, self._run, self._given, inputs, _labels.get())
        token = _prompt.set(prompt)
        try:
            return shadow.stock(**inputs)
        finally:
            _prompt.reset(token)

    def _run_layers(self, *args: Any, **kwargs: Any) -> Any:
        """Shadows the language model's forward: Algorithm 1 at a prompt, its layers over our cache after it."""
        shadow = self._shadows["decoder"]
        inputs = shadow.by_name(args, kwargs)
        prompt, cache = _prompt.get(), inputs.get(CACHE)
        if prompt is None and not _continues(cache):
            return shadow.stock(**inputs)
        outputs = {name: getattr(shadow.module.config, name, False) for name in _OUTPUTS}
        inputs = {**outputs, **{name: value for name, value in inputs.items() if value is not None}}
        check_outputs(inputs)
        keep_states = bool(inputs["output_hidden_states"])
        hidden_BNd = inputs.get("inputs_embeds")
        if hidden_BNd is None:
            hidden_BNd = self._backbone.decoder.embed_tokens(inputs["input_ids"])
        hidden_BNd = self._backbone.entering(hidden_BNd)
        if prompt is not None:
            added = self._backbone.family.added(inputs, hidden_BNd)
            # Checkpointed layers run twice and fill no cache: transformers then does without one, too.
            checkpointing = self._backbone.checkpoints_activations and torch.is_grad_enabled()
            wanted = (inputs["use_cache"] or cache is not None) and not checkpointing
            cache = BlinkCache() if wanted else None
            passed = self._run_prompt(prompt, hidden_BNd, added, cache, keep_states)
        else:
            assert cache is not None, "only a cache can continue"
            check_step(cache, hidden_BNd, inputs, self._backbone.family.axes)
            passed = run_step(self._backbone, hidden_BNd, cache, keep_states)
        return BaseModelOutputWithPast(
            last_hidden_state=passed.hidden_BSd,
            hidden_states=passed.states or None,
            **{CACHE: cache},
        )

    def _run_prompt(
        self,
        prompt: Prompt,
        hidden_BSd: Tensor,
        added: Mapping[int, Tensor],
        cache: BlinkCache | None,
        keep_states: bool,
    ) -> PassOutput:
        """Run each distinct prompt once and repeat hidden states and cache for the rows that share it."""
        self._run = self._run.placed(self._backbone)  # the model may have moved since the last prompt
        passed = run_prompt(
            self._backbone,
            self._run,
            hidden_BSd[:: prompt.repeats],
            prompt.spans,
            prompt.samples,
            cache,
            keep_states,
            {layer: of_layer_BSd[:: prompt.repeats] for layer, of_layer_BSd in added.items()},
        )
        self._trace = passed.events
        if prompt.repeats == 1:
            return passed
        if cache is not None:
            cache.batch_repeat_interleave(prompt.repeats)
        return passed._replace(
            hidden_BSd=passed.hidden_BSd.repeat_interleave(prompt.repeats, dim=0),
            states=tuple(state.repeat_interleave(prompt.repeats, dim=0) for state in passed.states),
        )


def attach(
    model: nn.Module | Backbone,
    policy: Policy,
    token_sr: str | os.PathLike[str] | Mapping[int, nn.Module] | None = None,
) -> Handle:
    """Put Blink into a vision-language model of transformers, in place and reversibly.

    `model(...)` and `model.generate(...)` then follow `policy`. Nothing but this object changes. The scan and the regions
    are those of the picture's base view, and an extension goes after the whole visual span, tiles and separators
    included (`model/families/` says which is which). With `output_hidden_states=True` the states are those of the input tokens,
    extensions left out. A copy of the model (`copy.deepcopy`) is a stock model; attach to it, too, if need be.

    Args:
        model: one of the classes of `blink.model.families`, with eager, sdpa or flash attention, or the `Backbone` of one.
        token_sr: None for interpolation only (Blink-interp); a folder of `save_token_sr`, a hub id ("name/repo" or
            "name/repo@revision", of which only the scanned layers are downloaded) or "tiny", the modules that ship with that
            backbone; or a mapping from layer to any module [B, d, H, W] -> [B, d, H, W]. Modules of another dtype or device than the model's
            are copied at the first prompt, with a warning if their weights require grad: the caller's stay as they
            are, get no gradient, and later changes of them have no effect.

    Returns:
        A handle with `trace`, `disabled()`, `pictures()`, `boxes()`, `prompt_end()`, `sample_keys()` and `detach()`.

    Raises:
        ValueError: if the model is of another kind, attached already or offloaded, `policy` is no policy, a scanned layer
            does not exist or lacks a module, patches do not fit the grid, modules are of another width, or
            saliency="similarity" needs projections that the layers do not have.
    """
    check_policy(policy)
    backbone = Backbone.of(model)
    backbone.check_weights()
    if any(is_shadowed(module) for module in (backbone.model, backbone.core, backbone.decoder)):
        raise UserError("Blink is attached to this model already; call detach() on the handle first")
    return Handle(backbone, policy, Run(policy, token_sr).resolve(backbone))


def _continues(cache: Any) -> TypeGuard[BlinkCache]:
    """Whether `cache` holds a prompt that ran with Blink: its events stand, and nothing is scanned any more."""
    return isinstance(cache, BlinkCache) and cache.get_seq_length() > 0
