"""Which tokens of a prompt are the content of which message of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from steerd.host.text import ChatMessage


def content_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage], ids: Sequence[int]
) -> list[range] | None:
    """The positions of each message's content among the ids that `encode_chat` gave.

    A token that holds the end of a marker and the start of a content belongs to the content. None when the
    template does not simply put the contents, trimmed or as they are, between its own markers.
    """
    try:
        text = _rendered(tokenizer, messages)
        stretches = _stretches(tokenizer, messages, text)
    except TemplateError:  # one that looks into the messages
        return None
    if stretches is None or not tokenizer.is_fast:
        return None
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(encoded["input_ids"]) != list(ids):
        return None
    return [_tokens_in(stretch, encoded["offset_mapping"]) for stretch in stretches]


def _stretches(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage], text: str
) -> list[range] | None:
    """Where in the rendered text each content stands: between the markers that stand-ins show."""
    stand_ins = [f"\ue000{number}\ue001" for number in range(len(messages))]
    markers = _rendered(
        tokenizer, [replace(m, content=word) for m, word in zip(messages, stand_ins, strict=True)]
    )
    stretches, end = [], 0
    for message, stand_in in zip(messages, stand_ins, strict=True):
        before, found, markers = markers.partition(stand_in)
        start = end + len(before)
        contents = [c for c in (message.content, message.content.strip()) if text.startswith(before + c, end)]
        if not found or not contents:
            return None
        end = start + len(contents[0])
        stretches.append(range(start, end))
    return stretches if text[end:] == markers else None


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage]) -> str:
    turns: list[dict[str, Any]] = [asdict(message) for message in messages]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert isinstance(text, str)
    return text


def _tokens_in(stretch: range, offsets: Sequence[tuple[int, int]]) -> range:
    """Tokens [start, end) whose characters overlap the stretch."""
    inside = [n for n, (start, end) in enumerate(offsets) if start < stretch.stop and end > stretch.start]
    return range(inside[0], inside[-1] + 1) if inside and stretch else range(0)
