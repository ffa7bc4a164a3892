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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from blink.inference.algorithm import PassOutput, run_prompt, run_step
from blink.inference.cache import NO_PIXELS, BlinkCache, Pixels
from blink.inference.crops import Samples
from blink.inference.given import (
    NOTHING_GIVEN,
    checked_boxes,
    checked_ends,
    checked_keys,
    checked_pictures,
    view_maker,
)
from blink.inference.policy import ACTIONS, Event, Policy, check_policy
from blink.inference.prompt_spans import prompt_spans, read_prompts
from blink.inference.refusals import (
    check_generation,
    check_no_image,
    check_outputs,
    check_positions,
    check_prompt,
    check_step,
)
from blink.inference.run import Run
from blink.inference.spans import Spans
from blink.model.backbone import CACHE, Backbone
from blink.model.image_inputs import base_views, check_images, pixel_digests
from blink.model.shadow import Shadow, is_shadowed
from blink.runs.values import UserError

_OUTPUTS = ("use_cache", "output_attentions", "output_hidden_states")
"""Arguments for which the language model's config has defaults."""

# What travels between the nested forwards of a call. As keywords they would reach vision towers and loss functions, too.
_labels: ContextVar[Tensor | None] = ContextVar("blink_labels", default=None)
_prompt: ContextVar["_Prompt | None"] = ContextVar("blink_prompt", default=None)


@dataclass(frozen=True)
class _Prompt:
    """The distinct prompts of a batch: spans, what else they are known by, and how many rows in a row repeat each (beams)."""

    spans: Spans
    samples: Samples
    repeats: int


class Handle:
    """Blink attached to one model. Made by `attach`.

    Attributes:
        model: the model object.
        policy: what decides the events. Read-only, as `model` is: it was checked against model and modules when
            attached; detach, and attach anew, to change it.
    """

    def __init__(self, backbone: Backbone, policy: Policy, run: Run) -> None:
        self._policy = policy
        self._backbone = backbone
        self._run = run
        self._enabled = True
        self._given = NOTHING_GIVEN
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

    @contextmanager
    def sample_keys(self, keys: Sequence[str]) -> Iterator[None]:
        """Inside, name the rows of each prompt, for a random selector or schedule.

        The draws depend on (policy.seed, key, layer). Without keys a hash of the unpadded prompt ids and the
        pixels is taken.
        """
        with self._saying(keys=checked_keys(keys)):
            yield

    @contextmanager
    def prompt_end(self, columns: Sequence[int] | Tensor) -> Iterator[None]:
        """Inside, say where the prompt of each row ends: the column of its last token, padding included.

        What follows in the same forward is an answer: it attends to extensions, and changes neither events nor the
        prompt's logits. Without this, a prompt ends before the first label that counts (not -100) of a forward
        with `labels`, and otherwise at the row's last token.

        Args:
            columns: one per prompt row, counted from 0 in `input_ids`; behind the picture, and not on padding.
        """
        with self._saying(ends=checked_ends(columns)):
            yield

    @contextmanager
    def pictures(self, images: Sequence[Image.Image], processor: Any = None) -> Iterator[None]:
        """Inside, hand over the pictures of each prompt as they were before the processor, for source="encode".

        Without them regions are cut out of the processed pixels, which hold no more detail than the whole picture
        had at the vision tower's resolution.

        Args:
            images: one per prompt row.
            processor: of the model; None: that of the `Backbone` that was attached to.

        Raises:
            ValueError: an entry is no picture, or there is no processor.
        """
        view_maker(self._backbone, processor)
        with self._saying(pictures=checked_pictures(images), **_unless_none(processor=processor)):
            yield

    @contextmanager
    def boxes(
        self,
        boxes: Sequence[Sequence[float] | None],
        sizes: Sequence[tuple[int, int]] | None = None,
        processor: Any = None,
    ) -> Iterator[None]:
        """Inside, say where the thing is that each row's question is about, for selector="box".

        The region acted on is the one that holds most of the box's area within what the model sees; the lowest index
        wins ties.

        Args:
            boxes: left, top, right and bottom in pixels of the original picture, one per prompt row; None for a question
                about no single place, for which nothing is expanded.
            sizes: (width, height) of the original pictures; None: of those given by `pictures`.
            processor: as for `pictures`; it tells how pictures are padded or cropped.

        Raises:
            ValueError: an entry is no box, or there is no processor.
        """
        view_maker(self._backbone, self._given.processor if processor is None else processor)
        said = _unless_none(sizes=None if sizes is None else list(sizes), processor=processor)
        with self._saying(boxes=checked_boxes(boxes), **said):
            yield

    @contextmanager
    def _saying(self, **said: Any) -> Iterator[None]:
        before, self._given = self._given, replace(self._given, **said)
        try:
            yield
        finally:
            self._given = before

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
        pixels = NO_PIXELS if ids_BS is None else self._pixels({**arguments, "input_ids": ids_BS})
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
        token = _prompt.set(self._prompt(inputs) if self._enabled else None)
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
        prompt: _Prompt,
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

    def _prompt(self, inputs: dict[str, Any]) -> _Prompt:
        """Check a prompt and find its spans and keys; `inputs` are the multimodal forward's, by name."""
        mask_BS = check_prompt(inputs)
        ids_BS = inputs["input_ids"]
        # All that the host has to know of a prompt, read at once: each time it waits for a GPU, which idles meanwhile.
        read = read_prompts(ids_BS, mask_BS)
        valid_BS = None if mask_BS is None or read.valid is None else mask_BS != 0
        B = ids_BS.shape[0]
        cache = inputs.get(CACHE)
        repeats = cache.repeats if isinstance(cache, BlinkCache) else 1
        distinct = list(range(0, B, repeats))
        ends = self._given.prompt_ends(len(distinct))
        if ends is not None:
            ends = [end for end in ends for _ in range(repeats)]
        spans = prompt_spans(self._backbone, inputs, valid_BS, ends, _labels.get(), read)
        check_images(self._backbone, [ids.count(self._backbone.image_token_id) for ids in read.ids], inputs)
        check_positions(inputs.get("position_ids"), spans.position_CBN, valid_BS)
        spans = spans.select(distinct)
        pixels = cache.take_pixels() if isinstance(cache, BlinkCache) else NO_PIXELS
        if pixels == NO_PIXELS:
            pixels = self._pixels(inputs)
        rows = [read.prompt(row, last) for row, last in zip(distinct, spans.lasts, strict=True)]
        samples = Samples(
            keys=self._given.sample_keys(self.policy, rows, pixels.digests),
            boxes=self._given.seen_boxes(self._backbone, self.policy, len(rows)),
            crops=self._given.crops(self._backbone, self._run, ids_BS[::repeats], spans, pixels.views),
        )
        return _Prompt(spans, samples, repeats)

    def _pixels(self, inputs: Mapping[str, Any]) -> Pixels:
        """What the policy will need of the pixels among the arguments of a forward or of `generate`."""
        if inputs.get("pixel_values") is None:
            return NO_PIXELS
        views = self._run.encodes and self._given.pictures is None
        return Pixels(
            digests=pixel_digests(self._backbone, inputs) if self.policy.draws else None,
            views=base_views(self._backbone, inputs) if views else None,
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


def _unless_none(**said: Any) -> dict[str, Any]:
    """What is not None."""
    return {name: value for name, value in said.items() if value is not None}
