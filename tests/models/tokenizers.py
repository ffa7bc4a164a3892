"""Tokenizers with LLaVA's special tokens: a word per token, or byte-pair merges as Llama's."""

import json

from tokenizers import Tokenizer, trainers
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Whitespace
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
