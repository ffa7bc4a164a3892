"""The tiny backbone as an untrained model: configuration, tokenizer and processor, all of stock classes.

A CLIP vision tower (96 px, patch 8: 12 x 12 tokens), LLaVA's two-layer projector, and a Llama of 16 layers and
width 128. The tokenizer is a word-level WordPiece with single characters to fall back on; the set phrases of the
benchmarks and of the conversation template are one token each, which makes text cheap.
"""

import string

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from blink.model.prompts import TEMPLATES
from blink.scenes.ask import PLACES
from blink.scenes.draw import COLOURS, SHAPES
from blink.scenes.formats import LETTERS, PHRASES

IMAGE_SIZE = 96
PATCH = 8
WIDTH = 128
LAYERS = 16
TEMPLATE = TEMPLATES["vicuna_v1"]

CHAT_TEMPLATE = (
    f"{TEMPLATE.prefix.removesuffix(' USER: ')}"
    "{% for message in messages %}"
    "{{ ' USER: ' if message['role'] == 'user' else ' ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{% endif %}{{ '</s>' if message['role'] == 'assistant' }}{% endfor %}"
    "{{ ' ASSISTANT:' if add_generation_prompt }}"
)
"""`TEMPLATE` as `processor.apply_chat_template` takes it: turns of the user and the assistant, pictures before text."""

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
WORDS = (
    "Yes No yes no There The the there is are not no a an in and or of to at on it this that these image picture "
    "photo Is Are What Where How Describe Which Who many color colour shape object objects left right above below "
    "top bottom center middle side kind number one two three four five six seven eight nine zero Context hint "
    "answer question option several small large same different near between only all both other than more most "
    "circles squares triangles diamonds stars crosses rings hexagons Please Does do does with has have by"
).split()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny backbone; the same on every machine."""
    characters = string.ascii_letters + string.digits
    words = dict.fromkeys(
        [*SPECIAL, "\n", *string.punctuation, *characters, *(f"##{c}" for c in characters)]
        + [*WORDS, *COLOURS, *SHAPES, *LETTERS]
        + [word for place in PLACES for word in place.split()]
    )
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=64))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Split(Regex(r"\n|[^\w\s]|[\u4e00-\u9fff]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    system = TEMPLATE.prefix.removesuffix("USER:").strip()
    fast.add_tokens(
        [AddedToken(phrase, special=False) for phrase in (system, "USER:", "ASSISTANT:", *PHRASES)]
    )
    return fast


def build_processor() -> LlavaProcessor:
    """The processor: pads to a square, resizes to 96 x 96 (bicubic), CLIP's mean and deviation."""
    images = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    tokenizer = build_tokenizer()
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """The untrained model (about 4 M parameters, float32), initialised from a seed.

    Matrices get 1/sqrt(fan-in); those that write to the residual stream are divided by sqrt(2 x layers) as well;
    embeddings get 0.5, since visual tokens start as sums of them.
    """
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=IMAGE_SIZE,
            patch_size=PATCH,
            projection_dim=WIDTH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=352,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                continue
            std = weight[0].numel() ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= (2 * LAYERS) ** 0.5
            if "embed_tokens" in name:
                std = 0.5
            elif "position_embedding" in name:
                std = 0.1
            elif "lm_head" in name:
                std = 0.02
            weight.normal_(0, std, generator=generator)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
