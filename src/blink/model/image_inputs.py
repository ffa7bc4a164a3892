"""Turns pictures and prompts into a backbone's inputs and embeddings, and checks that they fit.

Axes: B samples, S columns of a prompt, d hidden width.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from blink.model.backbone import Backbone
from blink.model.families import Encoded, Grid
from blink.runs.values import UserError


class Embedded(NamedTuple):
    """Prompts as they enter layer 0, visual tokens in place.

    Attributes:
        hidden_BSd: [B, S, d].
        added: what the model adds to the hidden states behind some layers (DeepStack): layer -> [B, S, d].
    """

    hidden_BSd: Tensor
    added: Mapping[int, Tensor]


def prompt_inputs(backbone: Backbone, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
    """Run the processor on prompts with one picture each; tensors on the model's device and in its dtype.

    Several prompts are padded to the longest, on the left if the processor was loaded by `load_processor`.
    """
    return placed(backbone, processed(backbone.processor, images, prompts))


def processed(processor: Any, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
    """Run a processor on prompts with one picture each; the part of `prompt_inputs` that needs no model, on the CPU."""
    return processor(
        images=[[image] for image in images],
        text=list(prompts),
        padding=len(prompts) > 1,
        return_tensors="pt",
    )


def placed(backbone: Backbone, inputs: Any) -> Any:
    """A processor's output on the model's device and in its dtype."""
    return inputs.to(backbone.device, backbone.model.dtype)


class PictureShape(NamedTuple):
    """What a processor makes of a picture of one size.

    Attributes:
        tokens: how many tokens stand in a prompt for its one image token, separators of tiles included.
        lead: how many of them come before the first visual token.
        grid: (H, W) of the base view.
        views: rows and columns of patches in each view that the vision tower sees.
    """

    tokens: int
    lead: int
    grid: Grid
    views: tuple[Grid, ...]


class PictureShapes:
    """Shapes of pictures by their size, as the processor itself makes them; each size is asked for once.

    Args:
        backbone: model and processor; an outline of the model will do.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._family, self._processor = backbone.family, backbone.processor
        self._known: dict[tuple[int, int], PictureShape] = {}

    def __call__(self, size: tuple[int, int]) -> PictureShape:
        """The shape of a picture of (width, height) pixels.

        Raises:
            ValueError: the processor does not take it.
        """
        if size not in self._known:
            self._known[size] = self._found(size)
        return self._known[size]

    def _found(self, size: tuple[int, int]) -> PictureShape:
        text = f"{self._processor.image_token}\n?"
        inputs = self._processor(images=[[Image.new("RGB", size)]], text=[text], return_tensors="pt")
        ids_1S = inputs["input_ids"]
        written = [int((ids_1S == self._family.image_token_id).sum())]
        [grid] = self._family.grids(inputs, 1)
        [views] = self._family.views_by_picture(inputs, written)
        bare: list[int] = self._processor.tokenizer(text)["input_ids"]
        image_token = self._processor.tokenizer.convert_tokens_to_ids(self._processor.image_token)
        lead = ids_1S[0].tolist().index(image_token) - bare.index(image_token)
        return PictureShape(ids_1S.shape[1] - len(bare) + 1, lead, grid, tuple(views))


def check_images(backbone: Backbone, tokens: Sequence[int], inputs: Mapping[str, Any]) -> None:
    """Raise unless each row of a prompt has one image, and as many image tokens as that has visual tokens.

    Args:
        tokens: image tokens per row.
        inputs: the arguments of the model's forward, by name.
    """
    counts = backbone.family.image_tokens(inputs, tokens)
    if len(counts) != len(tokens):
        raise UserError(
            f"the prompt has {len(tokens)} rows and {len(counts)} images; Blink takes exactly one image per sample"
        )
    grids = backbone.family.grids(inputs, len(tokens))
    for row, (in_prompt, count, (H, W)) in enumerate(zip(tokens, counts, grids, strict=True)):
        fits = in_prompt >= H * W if count is None else in_prompt == count
        if not fits:
            needed = f"{H * W} or more" if count is None else count
            raise UserError(
                f"row {row} of the prompt has {in_prompt} image tokens, its image has {needed}; let the processor put "
                "them in, for exactly one image per sample"
            )


def encode_image(backbone: Backbone, inputs: Mapping[str, Any]) -> Encoded:
    """All visual tokens of the pictures of some prompts, as vision tower and projector make them.

    Args:
        inputs: the processor's output, on the model's device and in its dtype.

    Raises:
        ValueError: the prompts have another number of image tokens than their pictures have visual tokens.
    """
    in_prompt = (inputs["input_ids"] == backbone.image_token_id).sum(dim=1).tolist()
    check_images(backbone, in_prompt, inputs)
    encoded = backbone.family.encode(inputs)
    if len(encoded.features_Td) != sum(in_prompt):
        raise UserError(
            f"the prompt has {sum(in_prompt)} image tokens, its images have {len(encoded.features_Td)} visual tokens; let "
            "the processor put them in, for exactly one image per sample"
        )
    return encoded


def embed_prompt(backbone: Backbone, ids_BS: Tensor, encoded: Encoded) -> Embedded:
    """Embeddings of prompts with the visual tokens in place.

    Args:
        encoded: visual tokens of their pictures, of `encode_image`.
    """
    visual_BS = ids_BS == backbone.image_token_id
    embedded_BSd = backbone.embed(ids_BS)
    features_Td = backbone.entering(encoded.features_Td.to(embedded_BSd))
    hidden_BSd = embedded_BSd.masked_scatter(visual_BS[..., None], features_Td)
    deep = {"visual_pos_masks": visual_BS, "deepstack_visual_embeds": encoded.added}
    return Embedded(hidden_BSd, backbone.family.added(deep, hidden_BSd))


def pixel_digests(backbone: Backbone, inputs: Mapping[str, Any]) -> list[str]:
    """A hash per image of its pixels as the vision tower sees them, in the model's dtype; padding is left out.

    Args:
        inputs: `input_ids` and the processor's tensors for one picture per row.
    """
    tokens = (inputs["input_ids"] == backbone.image_token_id).sum(dim=1).tolist()
    pictures = backbone.family.pixels_by_picture(inputs, tokens)
    seen = (
        picture.to(backbone.model.dtype).float().cpu().contiguous() for picture in pictures
    )  # NumPy has no bfloat16
    return [hashlib.sha256(picture.numpy().tobytes()).hexdigest() for picture in seen]


def base_views(backbone: Backbone, inputs: Mapping[str, Any]) -> list[Tensor]:
    """Pixels of each picture's base view as the vision tower sees them: [C, h, w].

    Args:
        inputs: as for `pixel_digests`.
    """
    tokens = (inputs["input_ids"] == backbone.image_token_id).sum(dim=1).tolist()
    return backbone.family.base_view_pixels(inputs, tokens)


def sample_key(ids_S: Tensor, pixel_digest: str) -> str:
    """Name a prompt, for policies that draw: a hash of its unpadded ids (int64) and of its picture's."""
    return hashlib.sha256(ids_S.long().cpu().numpy().tobytes() + pixel_digest.encode()).hexdigest()
