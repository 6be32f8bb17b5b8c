"""Text to token ids and back: prompts, chats through the host's template, text of a growing generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from steerd.errors import FieldViolation, InvalidRequest

_UNFINISHED = "\ufffd"  # what a decoder prints for bytes that are not (yet) a character
_MAX_BYTES_PER_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a chat: who speaks (system, user, assistant) and what is said."""

    role: str
    content: str


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a raw prompt, with what the tokenizer itself puts in front (a BOS token for some hosts)."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids


def encode_continuation(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that follows another: nothing is put in front."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The ids of a chat in the host's own template, ready for the assistant's turn unless told otherwise.

    Raises InvalidRequest when the host has no chat template, or when its template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise _bad_chat("chat", "the host has no chat template; send a prompt or token ids")
    turns = [asdict(message) for message in messages]
    try:
        ids: Any = tokenizer.apply_chat_template(
            turns, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        raise _bad_chat("chat.messages", f"refused by the host's chat template: {error}") from error
    return list(ids)


def _bad_chat(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field, description)])


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of all; of special ones their names, which are not in it.

    A token that ends amid a character adds nothing: the one that completes it has all of it.
    """
    decoder, added = IncrementalDecoder(tokenizer, ()), tokenizer.added_tokens_decoder
    texts = []
    for token_id in ids:
        text = decoder.push(token_id)
        is_special = token_id in added and added[token_id].special
        texts.append(text + str(added[token_id]) if is_special else text)
    if texts:
        texts[-1] += decoder.flush()
    return texts


class IncrementalDecoder:
    """Turns generated ids into text as they come, never cutting a character in two.

    The pieces, joined, are what decoding all generated ids after the prompt at once gives. Special tokens
    have no text. A character whose bytes come in several tokens appears with its last one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # Some tokenizers print a token differently at the start of a text (no leading space), so new ids are
        # decoded behind a few old ones, whose text is then cut off.
        self._context = list(prompt_ids[-_MAX_BYTES_PER_CHARACTER:])
        self._pending: list[int] = []
        self._sent = 0  # characters of the pending ids' text that were returned already
        self._unfinished_pushes = 0

    def push(self, token_id: int) -> str:
        """Take one generated id; return the text that is certain by now and was not returned before."""
        self._pending.append(token_id)
        text = self._pending_text()
        certain = self._certain(text)
        piece = certain[self._sent :]
        if certain and certain == text:
            self._context, self._pending, self._sent = self._pending, [], 0
        else:
            self._sent = max(self._sent, len(certain))
        return piece

    def flush(self) -> str:
        """The rest, when no id will follow; a character that was never finished becomes U+FFFD."""
        return self._pending_text()[self._sent :]

    def _pending_text(self) -> str:
        return self._decode(self._context + self._pending)[len(self._decode(self._context)) :]

    def _certain(self, text: str) -> str:
        if not text.endswith(_UNFINISHED):
            self._unfinished_pushes = 0
            return text
        self._unfinished_pushes += 1
        if self._unfinished_pushes < _MAX_BYTES_PER_CHARACTER:
            # A whole run of bytes may print as U+FFFD until its last byte has come.
            return text.rstrip(_UNFINISHED)
        return text[:-1]  # more bytes than a character has: only the last may still become one

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


class StopMatcher:
    """Says when a stop string has appeared in the generated text, also when it spans tokens."""

    def __init__(self, decoder: IncrementalDecoder, stop: Sequence[str]) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._keep = max((len(text) for text in stop), default=1) - 1
        self._tail = ""

    def __call__(self, token_id: int) -> bool:
        """Take one generated id; True once any stop string has been completed by it."""
        text = self._tail + self._decoder.push(token_id)
        self._tail = text[len(text) - min(self._keep, len(text)) :]
        return any(stop in text for stop in self._stop)
