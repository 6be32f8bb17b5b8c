"""A small tokenizer whose tokens vary in length, with a token that it puts in front of texts."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
LONG_WORD = "incomprehensibilities"

_TEXTS = [f"{LONG_WORD} of the common words that are told and the things that were seen {LONG_WORD}"] * 4

# As strict as those of well-known hosts: roles must alternate, and a system message has no place of its own.
STRICT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role != ('user', 'assistant')[loop.index0 % 2] %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
)


def word_tokenizer(
    chat_template: str | None = STRICT_TEMPLATE, end_of_text: str | None = END_OF_TEXT
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of a few hundred tokens, one of them 21 letters long; texts begin with <bos>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<bos>", *([end_of_text] if end_of_text else []), "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token=end_of_text,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
