"""The tiny backbone's tokenizer, processor and untrained weights."""

from blink.model.prompts import IMAGE_TOKEN
from blink.scenes.tiny.model import TEMPLATE, build_model, build_processor


def test_tokenizer_reads_its_own_words_back() -> None:
    """Would catch an answer that decodes to something the scorer does not know."""
    tokenizer = build_processor().tokenizer
    for text in ("Yes", "No", "top left", "Yes, there is a red circle.", "E", "xylophone"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.unk_token_id not in ids


def test_prompt_tokens_do_not_depend_on_what_follows_the_image() -> None:
    """Would catch training batches that are tokenized in parts and differ from what the processor makes."""
    tokenizer = build_processor().tokenizer
    question = "Is there a red circle in the image?\nAnswer the question using a single word or phrase."
    prompt = TEMPLATE.prompt(question)
    after = prompt.removeprefix(TEMPLATE.prefix + IMAGE_TOKEN)
    parts = [
        *tokenizer(TEMPLATE.prefix).input_ids,
        tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        *tokenizer(after, add_special_tokens=False).input_ids,
    ]
    assert tokenizer(prompt).input_ids == parts


def test_untrained_model_is_a_stock_llava_of_the_stated_size() -> None:
    """Would catch a backbone that outgrows what ships."""
    model = build_model(build_processor().tokenizer, seed=0)
    assert sum(weight.numel() for weight in model.parameters()) * 2 < 15e6
    assert model.config.text_config.num_hidden_layers == 16
