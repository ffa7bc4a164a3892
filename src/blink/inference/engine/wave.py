"""Prompts of some asks on their way up to the last layer: trunks, then text, chunk by chunk.

Axes: g trunks run together, P tokens of a trunk, V = H x W of the base view, C axes of positions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from blink.inference.boxes import SeenBox
from blink.inference.calls.given import view_maker
from blink.inference.crops import Crops, OriginalPicture, crop_prefix
from blink.inference.engine.asks import Ask, Inputs, Split
from blink.inference.engine.branching import advance
from blink.inference.engine.decoding import next_ids
from blink.inference.engine.rows import Question, Rotary, Shared, start
from blink.inference.engine.sharing.extensions import ExtensionCache
from blink.inference.engine.sharing.trunk import Place, Trunk, run_trunks
from blink.inference.engine.slots import Decoding
from blink.inference.policy import Policy
from blink.inference.run import Run
from blink.model.backbone import Backbone
from blink.model.families import Encoded
from blink.model.image_inputs import embed_prompt
from blink.model.token_sr import check_patches


class CheckedAsk(NamedTuple):
    """An ask that fits the model.

    Attributes:
        number: of the ask.
        runs: resolved, their modules placed on their layers.
        splits: the prompts' ids.
        boxes: as the backbone sees them; None: no policy selects by them.
    """

    number: int
    ask: Ask
    runs: Sequence[Run]
    splits: Sequence[Split]
    boxes: Sequence[SeenBox | None] | None

    @property
    def modules(self) -> set[nn.Module]:
        """That its runs expand with."""
        return {module for run in self.runs for module in run.modules.values()}


class _Stem(NamedTuple):
    """Ids of a prefix and a picture, of which a trunk is made.

    Attributes:
        number: of the ask, among those of the wave.
        prompts: numbers of the prompts with this prefix.
        prefix: their ids before the visual span.
        ids: prefix and visual span.
    """

    number: int
    prompts: list[int]
    prefix: tuple[int, ...]
    ids: list[int]
    place: Place


class Wave:
    """Prompts of some asks, whose trunks exist.

    Rows take one layer at a time. Splits make more rows than fit at once, so the others wait on a stack: those that came
    farthest go first, so that few wait with all their keys.

    Args:
        inputs: of each ask.
        rotary: is made to reach as far as any of the rows may come.
        max_bytes: of rows, and of extensions.

    Attributes:
        max_rows: most rows at once.
        picture_bytes: estimated, of the largest trunk and one extension in the layers where that can live.

    Raises:
        ValueError: a policy does not fit its picture's grid.
    """

    def __init__(
        self,
        backbone: Backbone,
        asks: Sequence[CheckedAsk],
        inputs: Sequence[Inputs],
        rotary: Rotary,
        *,
        max_new_tokens: int,
        max_bytes: int,
    ) -> None:
        self._backbone, self._asks, self._inputs = backbone, asks, inputs
        for checked, of_ask in zip(asks, inputs, strict=True):
            for patches in {run.policy.patches for run in checked.runs if run.policy is not None}:
                check_patches(patches, of_ask.grid)
        stems = self._stems()
        trunks = self._trunks(stems, max_bytes)
        questions, runs = self._questions(stems, trunks)
        for question in questions:
            H, W = question.trunk.grid
            rotary.reach(question.trunk.next_position + H * W + len(question.text) + max_new_tokens)
        longest = max(len(question.text) for question in questions)
        sizes = [(len(stem.ids), math.prod(stem.place.grid)) for stem in stems]  # of trunk and extension
        kept, num_layers = backbone.token_bytes(1).kept, backbone.num_layers
        extended = num_layers - min(self._expanding(), default=num_layers)
        entering = len(self._visual_layers()) * backbone.hidden_size * backbone.dtype.itemsize
        self.picture_bytes = max((kept + entering) * P + kept * X * extended // num_layers for P, X in sizes)
        # The text's keys count twice: decoding copies them, and rows keep theirs lest memory runs out meanwhile.
        token = backbone.token_bytes(max(map(sum, sizes)) + longest)
        row = (2 * longest + max_new_tokens) * token.kept + longest * token.passing
        self.max_rows = max(1, max_bytes // row)
        self._shared = Shared(
            backbone,
            ExtensionCache(
                backbone, self._crops(stems), max_tokens=self.max_rows * longest, max_bytes=max_bytes
            ),
            rotary,
        )
        self._stack = [start(backbone, questions, runs)]

    @property
    def done(self) -> bool:
        """Whether all rows went through all layers."""
        return not self._stack

    @property
    def next_rows(self) -> int:
        """How many rows go on next, if all at once; 0 once it is done."""
        return len(self._stack[-1]) if self._stack else 0

    @property
    def modules(self) -> set[nn.Module]:
        """That its runs expand with."""
        return {module for checked in self._asks for module in checked.modules}

    def advance(self, most: int) -> list[Decoding]:
        """Run the next rows, at most so many, through the layers that are left: those that come out, with their first tokens.

        Raises:
            NotFiniteError: names ask and prompt.
            torch.OutOfMemoryError: the rows wait as they were.
        """
        if self.done:  # the error of another wave, which ran before, has let all rows go
            return []
        while True:
            if self.next_rows > most:
                self._stack[-1:] = self._stack[-1].chunks(most)[::-1]
            # Rows that split come back before they ran the layer: they may be more than fit at once.
            after = advance(self._shared, self._stack[-1])
            if after.layer == self._backbone.num_layers:
                break
            self._stack[-1] = after
        ids = next_ids(self._backbone, after.hidden_RTd[:, 0])
        self._stack.pop()
        self._shared.extension_cache.trim()
        return [Decoding.of(after, row, first) for row, first in enumerate(ids)]

    def keep_before(self, ask: int) -> None:
        """Forget the rows of an ask and of those behind it."""
        stack = [
            rows.select([row for row, question in enumerate(rows.questions) if question.ask < ask])
            for rows in self._stack
        ]
        self._stack = [rows for rows in stack if len(rows)]

    def _expanding(self) -> set[int]:
        """The layers at which some run may expand."""
        return {layer for policy in self._policies() if not policy.never_expands for layer in policy.layers}

    def _visual_layers(self) -> set[int]:
        """The layers whose visual tokens are kept: for expansion, and for scans by similarity."""
        similar = [policy for policy in self._policies() if policy.saliency == "similarity"]
        return self._expanding() | {layer for policy in similar for layer in policy.layers}

    def _policies(self) -> list[Policy]:
        return [run.policy for checked in self._asks for run in checked.runs if run.policy is not None]

    def _stems(self) -> list[_Stem]:
        """Prefixes and pictures, each once."""
        backbone, stems = self._backbone, []
        for number, inputs in enumerate(self._inputs):
            by_prefix: dict[tuple[int, ...], list[int]] = {}
            for prompt, prefix in enumerate(inputs.prefixes):
                by_prefix.setdefault(prefix, []).append(prompt)
            for prefix, prompts in by_prefix.items():
                ids = [*prefix, *inputs.span]
                ids_1P = torch.tensor([ids], device=backbone.device)
                position_CP = backbone.family.positions(ids_1P, None, inputs.tensors)[:, 0]
                H, W = inputs.grid
                first = len(ids) - H * W if backbone.family.base_view_last else len(prefix)
                stems.append(_Stem(number, prompts, prefix, ids, Place(first, inputs.grid, position_CP)))
        return stems

    def _trunks(self, stems: Sequence[_Stem], max_bytes: int) -> list[Trunk]:
        """Run the trunks, those of one length together."""
        backbone = self._backbone
        layers = self._visual_layers()
        by_length: dict[int, list[int]] = {}
        for number, stem in enumerate(stems):
            by_length.setdefault(len(stem.ids), []).append(number)
        trunks: dict[int, Trunk] = {}
        for P, numbers in by_length.items():
            together = max(1, max_bytes // (P * backbone.token_bytes(P).passing))
            for first in range(0, len(numbers), together):
                alike = numbers[first : first + together]
                encoded = _joined([self._inputs[stems[number].number].encoded for number in alike])
                ids_gP = torch.tensor([stems[number].ids for number in alike], device=backbone.device)
                embedded = embed_prompt(backbone, ids_gP, encoded)
                places = [stems[number].place for number in alike]
                trunks |= zip(alike, run_trunks(backbone, embedded, places, layers), strict=True)
        return [trunks[number] for number in range(len(stems))]

    def _questions(
        self, stems: Sequence[_Stem], trunks: Sequence[Trunk]
    ) -> tuple[list[Question], list[Sequence[Run]]]:
        """The prompts, those behind one trunk side by side, and the runs of each."""
        questions, runs = [], []
        keys = [self._keys(checked, inputs) for checked, inputs in zip(self._asks, self._inputs, strict=True)]
        for number, (stem, trunk) in enumerate(zip(stems, trunks, strict=True)):
            checked, inputs = self._asks[stem.number], self._inputs[stem.number]
            for prompt in stem.prompts:
                box = None if checked.boxes is None else checked.boxes[prompt]
                text, key = inputs.texts[prompt], keys[stem.number][prompt]
                questions.append(Question(checked.number, prompt, trunk, number, text, key, box))
                runs.append(checked.runs)
        return questions, runs

    def _keys(self, checked: CheckedAsk, inputs: Inputs) -> Sequence[str]:
        """Names of the prompts of an ask, where some policy draws."""
        if checked.ask.sample_keys is not None:
            return checked.ask.sample_keys
        draws = any(run.policy is not None and run.policy.draws for run in checked.runs)
        return inputs.sample_keys() if draws else [""] * len(inputs.texts)

    def _crops(self, stems: Sequence[_Stem]) -> Crops | None:
        """Where regions are cut out of the pictures; None if no run encodes any."""
        if not any(run.encodes for checked in self._asks for run in checked.runs):
            return None
        backbone, maker = self._backbone, view_maker(self._backbone)
        prefixes = [
            crop_prefix(
                torch.tensor(stem.ids, device=backbone.device),
                len(stem.prefix),
                stem.place.base_start,
                backbone.image_token_id,
            )
            for stem in stems
        ]
        pictures = [OriginalPicture(self._inputs[stem.number].image, maker) for stem in stems]
        return Crops(backbone, prefixes, pictures)


def _joined(encoded: Sequence[Encoded]) -> Encoded:
    """Visual tokens of several pictures, one after the other."""
    if len(encoded) == 1:
        return encoded[0]
    added = zip(*(one.added for one in encoded), strict=True)
    return Encoded(torch.cat([one.features_Td for one in encoded]), tuple(map(torch.cat, added)))
