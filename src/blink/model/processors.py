"""Load a checkpoint's processor: its real class, also where torchvision is missing, padding texts on the left.

Many processors hold a video processor beside tokenizer and image processor, and transformers has video processors for
torchvision alone. Blink answers questions about pictures: without torchvision a placeholder stands for it.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.image_processing_backends import PilBackend
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

from blink.model.families import ARCHITECTURES, FAMILIES
from blink.model.fingerprint import check_place, checkpoint_source
from blink.runs.values import UserError, whole_number

_CLASS_TOKEN_TOWERS = ("clip_vision_model",)
"""Vision towers whose first token stands for the whole picture."""

PICTURE_KEYS = ("pad", "min_pixels", "max_pixels")
"""Of a config's group `model`, what a processor is to do with pictures: keyword arguments of `load_processor`."""


def picture_options(model: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `load_processor` that a config's group `model` holds; missing ones are None."""
    return {key: model.get(key) for key in PICTURE_KEYS}


def load_processor(
    path: str | Path,
    *,
    revision: str | None = None,
    pad: bool | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Any:
    """Load the processor of a checkpoint, of the class that transformers has for it.

    Files of all ages will do: all settings in processor_config.json, or spread over preprocessor_config.json and others.
    What they do not say, as those of older checkpoints, follows from the model's config: how many visual tokens a picture
    becomes. A conversation template that only the tokenizer has becomes the processor's.

    Args:
        path: folder or hub id, or "tiny" for the backbone that ships with the project.
        revision: branch, tag or commit on the hub.
        pad: whether LLaVA-1.5 pads a picture to a square in the mean colour, as its authors evaluate it; the hub's
            checkpoints crop the centre instead. None does so for LLaVA-1.5. All other models keep their processor's way.
        min_pixels, max_pixels: of a picture, which is scaled to lie between them, for models that take pictures at their
            own size (Qwen-VL). None is the processor's own.

    Raises:
        ValueError: there is no processor, a package that it needs is missing, padding is asked for with another model
            than LLaVA-1.5, or numbers of pixels with one whose pictures have a fixed size.
    """
    source = checkpoint_source(str(path))
    check_place(str(path))
    try:
        config: Any = AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"no backbone at {str(path)!r}: {error}") from error
    padded = pads(config, pad)
    check_pixels(config, min_pixels, max_pixels)
    try:
        written: dict[str, Any] = ProcessorMixin.get_processor_dict(source, revision=revision)[0]
        kind: Any = PROCESSOR_MAPPING.get(type(config), None)
        if kind is not None and "video_processor" in kind.get_attributes() and not is_torchvision_available():
            processor = assemble(kind, settings=written, **_parts(source, revision))
        else:
            processor = AutoProcessor.from_pretrained(source, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"no processor at {str(path)!r}: {error}") from error
    for name, value in _visual_tokens(config):
        if name not in written and hasattr(processor, name):
            setattr(processor, name, value)
    if processor.chat_template is None:
        processor.chat_template = processor.tokenizer.chat_template
    processor.tokenizer.padding_side = "left"
    if _is_llava15(config):
        processor.image_processor = _padding(processor.image_processor, padded)
    _limit(processor.image_processor, min_pixels, max_pixels)
    return processor


def check_picture_options(
    config: Any, *, pad: bool | None = None, min_pixels: int | None = None, max_pixels: int | None = None
) -> None:
    """Raise ValueError where a model's pictures cannot be made as `load_processor` is asked to make them.

    Args:
        config: of the model.
    """
    pads(config, pad)
    check_pixels(config, min_pixels, max_pixels)


def check_pixels(config: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Raise ValueError for numbers of pixels that are none, or that a model has no use for."""
    limits = {"model.min_pixels": min_pixels, "model.max_pixels": max_pixels}
    given = {key: whole_number(key, value) for key, value in limits.items() if value is not None}
    for key, value in given.items():
        kinds = [kind for family in FAMILIES if family.any_size for kind in family.architectures]
        if ARCHITECTURES.get(config.model_type) not in kinds:
            raise UserError(
                f"{key}={value} is for models that take a picture at its own size "
                f"({', '.join(kind.config_class.model_type for kind in kinds)}), and this model is a "
                f"{config.model_type!r}, whose processor has sizes of its own ({key}=null)"
            )


def pads(config: Any, pad: bool | None) -> bool:
    """Whether a model's pictures are padded to a square.

    Args:
        config: of the model.
        pad: the user's setting; None is the model's default, True for LLaVA-1.5.

    Raises:
        ValueError: padding is asked for with another model than LLaVA-1.5.
    """
    if pad and not _is_llava15(config):
        raise UserError(
            f"model.pad=true is for LLaVA-1.5 with its CLIP tower, and this model is a {config.model_type!r} with a "
            f"{config.vision_config.model_type!r}; its processor has a way of its own (model.pad=null or false)"
        )
    return _is_llava15(config) if pad is None else pad


class NoVideo(VideoProcessorMixin):
    """Stands for a video processor: keeps the settings, with which the processor is saved as it was, and takes no video."""

    num_frames = fps = None

    def to_dict(self) -> dict[str, Any]:
        """The settings as they were given."""
        return copy.deepcopy(dict(vars(self)))

    def preprocess(self, videos: Any, **_: Any) -> Any:
        """Refuse any video."""
        raise UserError("there is a video among the inputs; Blink takes pictures only")


def assemble(kind: Any, *, settings: dict[str, Any] | None = None, **parts: Any) -> Any:
    """Build a processor of class `kind` from its parts, of which the video processor may be a `NoVideo`.

    Constructors look up what a video processor must be among the names that transformers shows, and without torchvision
    none is there; so that check is left out.

    Args:
        settings: keyword arguments of the constructor; others are left out, as transformers does when it loads.
        parts: tokenizer, image_processor and so on.
    """
    known = inspect.signature(kind.__init__).parameters
    named = {name: value for name, value in (settings or {}).items() if name in known and name not in parts}
    processor = kind.__new__(kind)
    processor.check_argument_for_proper_class = lambda name, part: type(part)
    processor.__init__(**parts, **named)
    del processor.check_argument_for_proper_class
    return processor


def _parts(source: str, revision: str | None) -> dict[str, Any]:
    """Tokenizer, image processor and placeholder of a checkpoint."""
    try:
        video = NoVideo.from_pretrained(source, revision=revision)
    except OSError:  # it has no settings for videos
        video = NoVideo()
    return {
        "tokenizer": AutoTokenizer.from_pretrained(source, revision=revision),
        "image_processor": AutoImageProcessor.from_pretrained(source, revision=revision),
        "video_processor": video,
    }


def _visual_tokens(config: Any) -> Iterator[tuple[str, Any]]:
    """Settings of processors that say how many visual tokens a picture becomes: name and value."""
    vision: Any = getattr(config, "vision_config", None)
    select = getattr(config, "vision_feature_select_strategy", None)
    if select is not None:
        yield "vision_feature_select_strategy", select
    if hasattr(config, "vision_aspect_ratio"):
        yield "vision_aspect_ratio", config.vision_aspect_ratio
    if hasattr(config, "image_seq_length"):
        yield "image_seq_length", config.image_seq_length
    if isinstance(getattr(vision, "image_size", None), int):  # a square, unlike InternVL's and Qwen's
        patches = vision.image_size // vision.patch_size
        yield "patch_size", vision.patch_size
        yield "num_additional_image_tokens", int(vision.model_type in _CLASS_TOKEN_TOWERS)
        yield "num_image_tokens", patches**2
        if hasattr(config, "scale_factor"):
            yield "image_seq_len", patches**2 // config.scale_factor**2


def _is_llava15(config: Any) -> bool:
    """Whether a model is of LLaVA-1.5's architecture with its CLIP tower, whose pictures are squares without tiles."""
    return config.model_type == "llava" and config.vision_config.model_type == "clip_vision_model"


def _padding(images: Any, padded: bool) -> Any:
    """LLaVA's image processor with padding on or off. The hub's checkpoints name CLIP's, which knows none."""
    if padded and not hasattr(images, "pad_to_square"):
        kind = LlavaImageProcessorPil if isinstance(images, PilBackend) else transformers.LlavaImageProcessor
        images = kind.from_dict(images.to_dict())
    images.do_pad = padded
    return images


def _limit(images: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Set the numbers of pixels between which an image processor scales a picture; it calls them edges."""
    edges = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    given = {name: pixels for name, pixels in edges.items() if pixels is not None}
    if not given:
        return
    size = {name: value for name, value in dict(images.size).items() if value is not None} | given
    if size["shortest_edge"] > size["longest_edge"]:
        raise UserError(
            f"pictures would have at least {size['shortest_edge']} and at most {size['longest_edge']} pixels "
            "(model.min_pixels, model.max_pixels; null is the processor's own); expected the first to be no larger"
        )
    images.size = type(images.size)(**size)
