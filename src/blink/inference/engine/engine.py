"""Many questions and many policies about one picture, for little more than the work in which they differ.

The answers are those of `attach` and greedy `generate` for each question and policy alone. The trunk is run once per
picture and prefix, an extension once per key (layer, region, module), text once per prompt and history of extensions.

Memory beside the weights: one trunk, and about `memory_gb`, half of it for rows in flight and half for extensions,
by an estimate from the model's widths. Rows beyond that wait; when a GPU runs out of memory all the same, the number
of rows at once is halved from there on.

Legend: S columns of a prompt and its answer, P of a trunk, V = H x W of the base view, C axes of positions, E width of a
head.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers.generation import LogitsProcessorList

from blink.inference.attach import attach
from blink.inference.attention import hooks_enabled
from blink.inference.crops import Crops, OriginalPicture, Samples, crop_prefix
from blink.inference.engine.asks import Answer, Ask, Inputs, check_runs, check_texts, prepare
from blink.inference.engine.branching import advance
from blink.inference.engine.decoding import FiniteLogits, closing_ids, closing_tokens, decode
from blink.inference.engine.rows import Rows, Shared, start
from blink.inference.engine.trunk import ExtensionCache, run_trunk
from blink.inference.given import Given, checked_boxes, view_maker
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.image_inputs import embed_prompt, prompt_inputs
from blink.model.token_sr import check_patches, placed
from blink.model.token_sr_files import load_token_sr
from blink.runs.values import NotFiniteError, UserError, number, whole_number

log = logging.getLogger(__name__)

GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
"""LLaVA's evaluation; sampling settings of a checkpoint's generation config are taken back."""


class Engine:
    """Answers many prompts about one picture under many runs; it changes nothing of the model.

    Args:
        model: one of the classes of `blink.model.families`, or the `Backbone` of one.
        processor: its processor; None is the one that the `Backbone` carries.
        memory_gb: how much memory rows and extensions may take, in GiB, by estimate (see above).

    Raises:
        ValueError: the model is of another kind or offloaded, there is no processor, or `memory_gb` is not above 0.
    """

    def __init__(self, model: nn.Module | Backbone, processor: Any = None, *, memory_gb: float = 4.0) -> None:
        memory_gb = number("memory_gb", memory_gb, above=0)
        self._backbone = Backbone.of(model, processor)
        self._backbone.check_weights()
        if self._backbone.processor is None:
            raise UserError(
                "processor is missing: Engine(model, processor) needs what turns prompts into tokens"
            )
        self._bytes = int(memory_gb * 2**30)
        self._max_rows: int | None = None  # set where memory ran out
        self._folders: dict[str, dict[int, nn.Module]] = {}
        self._placed: dict[tuple[int, int], tuple[nn.Module, nn.Module]] = {}

    def answer(
        self,
        image: Image.Image,
        prompts: Sequence[str],
        runs: Sequence[Run],
        *,
        max_new_tokens: int,
        sample_keys: Sequence[str] | None = None,
        boxes: Sequence[Sequence[float] | None] | None = None,
    ) -> list[list[Answer]]:
        """Answer every prompt about one picture under every run; the arguments are those of `Ask`.

        Args:
            max_new_tokens: how long an answer may get, at least 1.

        Returns:
            For each run a list of one answer per prompt.

        Raises:
            ValueError: there is no prompt or no run, a prompt has not one image with text behind it, a run is none or does
                not fit the model, or the model's generation config changes logits.
            NotFiniteError: a saliency ratio or the largest logit is nan or infinite; names the prompt.
        """
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        return self._answer_one(Ask(image, prompts, runs, sample_keys, boxes), max_new_tokens)

    def answer_many(
        self, asks: Iterable[Ask], *, max_new_tokens: int, pictures: int | None = None
    ) -> Iterator[list[list[Answer]]]:
        """Answer prompts about many pictures: for each ask what `answer` returns, in the order of the asks.

        Args:
            asks: read as they are needed, so that pictures may be decoded meanwhile.
            max_new_tokens: how long an answer may get, at least 1.
            pictures: most pictures under way at once; None: as many as `memory_gb` holds.

        Raises:
            ValueError: as `answer` raises it; names the number of the ask.
            NotFiniteError: as `answer` raises it; `ask` and `sample` are the numbers of ask and prompt.
        """
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        if pictures is not None:
            whole_number("pictures", pictures)
        return self._answer_each(asks, max_new_tokens)

    def _answer_each(self, asks: Iterable[Ask], max_new_tokens: int) -> Iterator[list[list[Answer]]]:
        for index, ask in enumerate(asks):
            try:
                answers = self._answer_one(ask, max_new_tokens)
            except NotFiniteError as error:
                raise error.of_ask(index) from error
            except UserError as error:
                raise UserError(f"ask {index}: {error}") from error
            yield answers

    def _answer_one(self, ask: Ask, max_new_tokens: int) -> list[list[Answer]]:
        ask.check()
        closing = closing_tokens(self._backbone.model)
        image, prompts, runs, sample_keys, boxes, processed = ask
        resolved = [self._resolve(run) for run in runs]
        given = Given(boxes=None if boxes is None else checked_boxes(boxes), pictures=[image] * len(prompts))
        by_box = [run.policy for run in resolved if run.policy is not None and run.policy.selector == "box"]
        seen = given.seen_boxes(self._backbone, by_box[0], len(prompts)) if by_box else None
        with torch.inference_mode(), hooks_enabled(self._backbone):
            inputs = prepare(self._backbone, image, prompts, processed)
            draws = any(run.policy is not None and run.policy.draws for run in resolved)
            keys = sample_keys or (inputs.sample_keys() if draws else [""] * len(prompts))
            samples = Samples(keys, seen)
            answers: dict[tuple[int, int], Answer] = {}
            for prefix in dict.fromkeys(inputs.prefixes):
                group = [number for number, other in enumerate(inputs.prefixes) if other == prefix]
                answers |= self._answer_group(inputs, group, resolved, samples, closing, max_new_tokens)
        return [[answers[run, prompt] for prompt in range(len(prompts))] for run in range(len(runs))]

    def answer_alone(
        self,
        image: Image.Image,
        prompt: str,
        run: Run,
        *,
        max_new_tokens: int,
        box: Sequence[float] | None = None,
    ) -> Answer:
        """Answer one prompt under one run by a greedy `generate`, with Blink attached for the length of the call.

        Nothing is shared with other prompts or runs. Logits processors of the model's generation config, which
        `answer` refuses, are applied. `box` is as an entry of its `boxes`.

        Raises:
            ValueError: the prompt has not one image with text behind it, the run does not fit the model, or Blink is
                attached to the model already.
            NotFiniteError: as `answer` raises it.
        """
        check_texts("prompts", [prompt])
        check_runs([run])
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        model, run = self._backbone.model, self._resolve(run)
        inputs = prompt_inputs(self._backbone, [image], [prompt])
        handle = None if run.policy is None else attach(self._backbone, run.policy, run.token_sr)
        try:
            with torch.inference_mode(), ExitStack() as stack:
                by_box = run.policy is not None and run.policy.selector == "box"
                if handle is not None and (run.encodes or by_box):
                    stack.enter_context(handle.pictures([image]))
                if handle is not None and by_box:
                    stack.enter_context(handle.boxes([box]))
                ids_1S = model.generate(
                    **inputs,
                    **GREEDY,
                    max_new_tokens=max_new_tokens,
                    logits_processor=LogitsProcessorList([FiniteLogits()]),
                )
            events = () if handle is None else tuple(handle.trace[0])
        finally:
            if handle is not None:
                handle.detach()
        ids: list[int] = ids_1S[0, inputs["input_ids"].shape[1] :].tolist()
        closing = closing_ids(model.generation_config)
        length = next((i + 1 for i, token in enumerate(ids) if token in closing), len(ids))
        return Answer(tuple(ids[:length]), self._text(ids[:length]), events)

    def _answer_group(
        self,
        inputs: Inputs,
        group: Sequence[int],
        runs: Sequence[Run],
        samples: Samples,
        closing: frozenset[int],
        max_new_tokens: int,
    ) -> dict[tuple[int, int], Answer]:
        """Answer the prompts of one prefix: (run, prompt) -> answer.

        Rows take one layer at a time. Splits make more rows than fit at once, so the others wait on a stack: those
        that came farthest go first, so that few wait with all their keys.
        """
        texts = [inputs.texts[prompt] for prompt in group]
        longest = max(map(len, texts))
        max_rows = self._rows_at_once(inputs, longest, max_new_tokens)
        shared = self._share(inputs, group, runs, samples, max_rows * longest, longest + max_new_tokens)
        answers: dict[tuple[int, int], Answer] = {}
        stack = [start(self._backbone, group, texts, range(len(runs)))]
        while stack:
            rows = stack.pop()
            max_rows = min(max_rows, self._max_rows or max_rows)
            if len(rows) > max_rows:
                stack += rows.chunks(max_rows)
                continue
            try:
                if rows.layer < self._backbone.num_layers:
                    # Rows that split come back before they ran the layer: they may be more than fit at once.
                    stack.append(advance(shared, rows))
                    continue
                ids = decode(shared, rows, closing=closing, max_new_tokens=max_new_tokens)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                self._max_rows = len(rows) // 2
                log.warning("out of memory with %d rows; going on with %d at once", len(rows), self._max_rows)
                stack.append(rows)
                continue
            answers |= self._collect(rows, ids)
            shared.extension_cache.trim()
        return answers

    def _share(
        self,
        inputs: Inputs,
        group: Sequence[int],
        runs: Sequence[Run],
        samples: Samples,
        tokens_at_once: int,
        own_tokens: int,
    ) -> Shared:
        """Run the trunk of some prompts that share a prefix, and prepare what their rows share."""
        backbone = self._backbone
        policies = [run.policy for run in runs if run.policy is not None]
        for patches in {policy.patches for policy in policies}:
            check_patches(patches, inputs.grid)
        scanned = {layer for policy in policies for layer in policy.layers}
        ids_1P = torch.tensor([[*inputs.prefixes[group[0]], *inputs.span]], device=backbone.device)
        position_C1P = backbone.family.positions(ids_1P, None, inputs.tensors)
        V = inputs.grid[0] * inputs.grid[1]
        start = ids_1P.shape[1] - V if backbone.family.base_view_last else ids_1P.shape[1] - len(inputs.span)
        embedded = embed_prompt(backbone, ids_1P, inputs.encoded)
        trunk = run_trunk(backbone, embedded, position_C1P, start, inputs.grid, scanned)
        crops = None
        if any(run.encodes for run in runs):
            prefix_P = crop_prefix(ids_1P[0], len(inputs.prefixes[group[0]]), start, backbone.image_token_id)
            crops = Crops(backbone, [prefix_P], [OriginalPicture(inputs.image, view_maker(backbone))])
        extensions = ExtensionCache(
            backbone, trunk, crops, max_tokens=tokens_at_once, max_bytes=self._bytes // 2
        )
        positions = trunk.next_position + V + own_tokens
        every_C1N = torch.arange(positions, device=backbone.device).expand(len(trunk.cell_CV), 1, -1)
        cos, sin = (part.squeeze(-3) for part in backbone.rotary(every_C1N))
        return Shared(backbone, trunk, extensions, (cos, sin), runs, samples)

    def _collect(self, rows: Rows, ids: list[list[int]]) -> dict[tuple[int, int], Answer]:
        """The answers of finished rows, for every run that shared one."""
        answers = {}
        for prompt, members, row_ids in zip(rows.prompts, rows.members, ids, strict=True):
            text = self._text(row_ids)
            for member in members:
                answers[member.run, prompt] = Answer(tuple(row_ids), text, member.events)
        return answers

    def _text(self, ids: list[int]) -> str:
        text: str = self._backbone.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _rows_at_once(self, inputs: Inputs, longest: int, max_new_tokens: int) -> int:
        """How many rows fit half of the memory: keys of text and answer, and one layer's work on the text.

        The text's keys count twice: decoding copies them, and rows keep theirs lest memory runs out meanwhile.
        """
        H, W = inputs.grid
        keys = max(map(len, inputs.prefixes)) + len(inputs.span) + H * W + longest
        token = self._backbone.token_bytes(keys)
        row = (2 * longest + max_new_tokens) * token.kept + longest * token.passing
        return max(1, self._bytes // 2 // row)

    def _resolve(self, run: Run) -> Run:
        """Resolve a run and place its modules, as `Run.placed`, but one copy of a module for all runs that hold it.

        Raises:
            ValueError: the run does not fit the model.
        """
        if isinstance(run.policy, Policy) and isinstance(run.token_sr, str | os.PathLike):
            run = Run(run.policy, self._from_folder(str(run.token_sr), run.policy))
        run = run.resolve(self._backbone)
        modules = {layer: self._at_layer(layer, module) for layer, module in run.modules.items()}
        return Run(run.policy, modules or None)

    def _from_folder(self, folder: str, policy: Policy) -> dict[int, nn.Module]:
        """The modules of a folder, read once."""
        known = self._folders.setdefault(folder, {})
        missing = [layer for layer in policy.layers if layer not in known]
        if missing:
            known |= load_token_sr(folder, channels=self._backbone.hidden_size, layers=missing)
        return known

    def _at_layer(self, layer: int, module: nn.Module) -> nn.Module:
        """A module on its layer's device, in its dtype: itself, or one copy of it."""
        if (id(module), layer) not in self._placed:
            self._placed[id(module), layer] = (
                module,
                placed(module, self._backbone.device, self._backbone.dtype),
            )
        return self._placed[id(module), layer][1]
