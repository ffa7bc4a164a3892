"""Blink inside a stock model's `generate`: attach, ask, see what happened, compare with the stock model, detach.

    python examples/attach.py [MODEL [PICTURE QUESTION]]

MODEL is "tiny" (the default), a folder, a hub id, or a name of `model=` such as llava15_7b.
"""

import sys

from PIL import Image

import blink
from blink.scenes.draw import scene


def main(
    name: str = "tiny", picture: str | None = None, question: str = "What shape is the purple object?"
) -> None:
    """Answer one question with Blink and without it."""
    image = scene("test", 1).draw() if picture is None else Image.open(picture).convert("RGB")
    model, processor = blink.load(name)
    layers = [8, 9, 10] if name == "tiny" else range(12, 19)
    # token_sr: None (a region is interpolated), "tiny", a folder, or a repository of the hub
    handle = blink.attach(
        model, blink.Policy(layers, tau_exp=0.5, tau_drop=0.4), "tiny" if name == "tiny" else None
    )

    turn = {
        "role": "user",
        "content": [{"type": "image", "image": image}, {"type": "text", "text": question}],
    }
    inputs = processor.apply_chat_template(
        [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device)

    def answer() -> str:
        ids = model.generate(**inputs, max_new_tokens=32)[0, inputs["input_ids"].shape[1] :]
        text: str = processor.decode(ids, skip_special_tokens=True)
        return text

    print("Blink:  ", answer())
    print(handle)
    for event in handle.trace[0]:
        print(f"  layer {event.layer}: ratio {event.ratio:.2f}, {event.action}, region {event.region}")
    with handle.disabled():
        print("without:", answer())
    handle.detach()  # the model object as it was


if __name__ == "__main__":
    main(*sys.argv[1:])
