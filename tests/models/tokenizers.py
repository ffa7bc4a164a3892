"""Tokenizers: a word per token, with the special tokens of LLaVA or of another family, or byte-pair merges as Llama's."""

import json

from tokenizers import Regex, Tokenizer, trainers
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Split, Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import LlamaTokenizerFast, PreTrainedTokenizerFast

PAD, BOS, EOS, UNK, IMAGE = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
"""In this order the first ids of `tokenizer`."""

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
WORDS = (
    "is there a an the red green blue yellow small large circle square triangle star dog cat in on of left "
    "right above below image picture what which where how many colour shape object are do you see answer "
    "question using single word or phrase yes no one two three four A B C D E option letter choices from "
    "given directly 是 否"
).split()

_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))

CHAT_TOKENS: dict[str, tuple[str, ...]] = {
    "llava": (*_QWEN, UNK, "<image>"),
    "llava_onevision": (*_QWEN, UNK, "<image>", "<video>"),
    "internvl": (*_QWEN, UNK, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    "smolvlm": (
        *("<|im_end|>", "<|im_start|>", "<end_of_utterance>", UNK),
        *("<fake_token_around_image>", "<image>", "<global-img>", *_TILES),
    ),
    "idefics3": (
        *("<|finetune_right_pad_id|>", "<|begin_of_text|>", "<end_of_utterance>", UNK),
        *("<fake_token_around_image>", "<image>", "<global-img>", *_TILES),
    ),
    "qwen": (*_QWEN, UNK, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
}
"""Kind -> special tokens of its tokenizer: padding, start, end of a turn, unknown, then those around a picture."""

NAMED_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
"""InternVL's tokenizer has these as attributes."""

_MERGED_VOCABULARY = 420
_CORPUS = [
    SYSTEM.replace("human", "user"),
    " ".join(WORDS),
    "USER: \n ASSISTANT: [INST] [/INST] Is there a red circle in the image? "
    "Answer the question using a single word or phrase.",
] * 3


def tokenizer() -> PreTrainedTokenizerFast:
    """A token per word, known or not; each text starts with <s>, batches are padded on the left."""
    words = Whitespace().pre_tokenize_str(f"{SYSTEM} USER: ASSISTANT: ? , . INST [ ] / Is What Answer")
    vocabulary = list(dict.fromkeys([*SPECIAL, *(word for word, _ in words), *WORDS]))
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNK))
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, SPECIAL.index(BOS))])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[IMAGE],
        padding_side="left",
    )


def chat_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A token per word or line break, with the special tokens of a kind; batches are padded on the left.

    Texts start as they are written, except for Idefics3's, whose tokenizer puts the start token before each.

    Args:
        kind: a key of CHAT_TOKENS.
    """
    special = CHAT_TOKENS[kind]
    roles = "\n : user assistant system User Assistant System You"
    words = Whitespace().pre_tokenize_str(
        f"{SYSTEM} {roles} USER: ASSISTANT: ? , . INST [ ] / Is What Answer"
    )
    vocabulary = list(dict.fromkeys([*special, "\n", *(word for word, _ in words), *WORDS]))
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNK))
    core.pre_tokenizer = Split(Regex(r"\n|\w+|[^\w\s]+"), behavior="removed", invert=True)
    if kind == "idefics3":
        core.post_processor = TemplateProcessing(single=f"{special[1]} $A", special_tokens=[(special[1], 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special[0],
        bos_token=special[1] if kind in ("smolvlm", "idefics3") else None,
        eos_token=special[2],
        unk_token=UNK,
        additional_special_tokens=[token for token in special[1:] if token not in (special[2], UNK)],
        padding_side="left",
        **(NAMED_TOKENS if kind == "internvl" else {}),
    )


def llama_tokenizer() -> LlamaTokenizerFast:
    """Llama's kind: merges learned from a few sentences, bytes for all other text, special tokens at the end."""
    core = Tokenizer(BPE(unk_token=UNK, fuse_unk=True, byte_fallback=True))
    core.normalizer = Replace(" ", "▁")
    special = [UNK, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=_MERGED_VOCABULARY, special_tokens=special)
    core.train_from_iterator(_CORPUS, trainer)
    learned = json.loads(core.to_str())["model"]
    made = LlamaTokenizerFast(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        add_bos_token=True,
        padding_side="left",
    )
    made.add_special_tokens({"pad_token": PAD, "additional_special_tokens": [IMAGE]})
    return made
