"""`blink.load`: a model and its processor by folder, hub id, or the name that `model=` has for it in the commands."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from blink.model.checkpoints import check_attention, load_backbone
from blink.model.processors import picture_options
from blink.runs.config.groups import keys_of_option, options_of
from blink.runs.values import UserError, path


def load(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """Load a model and its processor, ready for `blink.attach` and `blink.Engine`.

    Args:
        name_or_path: a folder or hub id with a checkpoint of one of the `families`, or the name of an option of `model=`
            in the commands, such as "llava15_7b", whose pictures are then made as the commands make them. "tiny" ships
            with the project and needs no network. A folder that is called like an option is given as "./tiny".
        revision: branch, tag or commit on the hub.
        dtype: a floating-point dtype of torch or its name, or "auto" for the checkpoint's; None: that of the option, else
            "auto".
        device: where the model goes; None: "cuda" where there is one, else "cpu".
        attn_implementation: "sdpa", "eager" or "flash_attention_2".

    Returns:
        The model, frozen and in evaluation mode, and a processor that pads texts on the left.

    Raises:
        ValueError: there is no such checkpoint, and as `load_backbone` does.
    """
    folder = path("name_or_path", name_or_path, what="a folder, a hub id or a name such as 'tiny'", hint="")
    names = options_of("model")
    check_attention(attn_implementation)
    if name_or_path in names:  # as a text: a Path is a folder
        option = keys_of_option("model", str(name_or_path))
    elif folder.is_dir():
        option = {"path": str(folder.absolute()), "dtype": "auto"}
    elif "/" in str(name_or_path):
        option = {"path": str(name_or_path), "dtype": "auto"}
    else:
        close = get_close_matches(str(name_or_path), names, n=1)
        raise UserError(
            f"no backbone at {str(name_or_path)!r}{f' (did you mean {close[0]}?)' if close else ''}: expected a folder, a "
            f"hub id (owner/name), or one of {', '.join(names)}"
        )
    chosen = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    backbone = load_backbone(
        option["path"],
        revision=revision if revision is not None else option.get("revision"),
        dtype=str(option["dtype"] if dtype is None else dtype).removeprefix("torch."),
        device=chosen,
        attn_implementation=attn_implementation,
        **picture_options(option),
    )
    return backbone.model, backbone.processor
