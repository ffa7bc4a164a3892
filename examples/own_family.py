"""A class of models that Blink does not know: say how it places a picture in a prompt, and everything else follows.

    python examples/own_family.py

VipLlava is LLaVA with features of several layers of its vision tower. Here it has random weights, so its answers mean nothing;
what is shown is that a policy which never acts changes no bit, and that one which always acts does. docs/new_backbone.md says
what a family may have to override.
"""

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

import blink
from blink.model.families import Family, register
from blink.model.processors import load_processor
from blink.scenes.draw import scene


class VipLlava(Family):
    """One view of H x W tokens, like that of LLaVA; its `get_image_features` takes pixels alone."""

    architectures = (VipLlavaForConditionalGeneration,)
    image_inputs = ("pixel_values",)


def small_model(vocabulary: int, image_token: int) -> VipLlavaForConditionalGeneration:
    """A model with random weights that takes the pictures and words of the tiny backbone."""
    torch.manual_seed(0)
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=96,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
        ),
        image_token_index=image_token,
        vision_feature_layers=[-1, -2],
    )
    return VipLlavaForConditionalGeneration(config).eval()


def main() -> None:
    """Register the family and attach to a model of it."""
    register(VipLlava)
    processor = load_processor("tiny")
    image_token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    model = small_model(len(processor.tokenizer), image_token)
    turn = {
        "role": "user",
        "content": [{"type": "image", "image": scene("test", 1).draw()}, {"type": "text", "text": "Red?"}],
    }
    inputs = processor.apply_chat_template(
        [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        stock = model(**inputs).logits
        never = blink.attach(model, blink.Policy.never([0, 1, 2, 3]))
        print("a policy that never acts changes nothing:", torch.equal(model(**inputs).logits, stock))
        never.detach()
        always = blink.attach(model, blink.Policy([1, 3], tau_exp=0, tau_drop=0))
        print("one that always acts does:", not torch.equal(model(**inputs).logits, stock))
    print(always)


if __name__ == "__main__":
    main()
