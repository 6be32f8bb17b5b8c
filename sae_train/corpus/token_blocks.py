"""Documents as token blocks: a chat alone through its template (fast), or text cut to size (block)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from sae_train.corpus.documents import ChatDocument, CorpusError, Document, TextDocument
from steerd.host.text import encode_chat, encode_prompt

Mode = Literal["fast", "block"]

# A token of ordinary text is rarely longer; cutting there saves tokenising whole books for a first page.
_CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True, slots=True)
class TokenBlock:
    """One sequence for the host; `keep` marks the tokens whose activations are trained on."""

    ids: list[int]
    keep: list[bool]
    source: str

    @property
    def kept_tokens(self) -> int:
        """How many tokens count."""
        return sum(self.keep)


def fast_blocks(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, *, context: int
) -> Iterator[TokenBlock]:
    """Yield each conversation alone, through the chat template, truncated to `context` tokens."""
    for document in documents:
        if not isinstance(document, ChatDocument):
            raise CorpusError(f"mode 'fast' needs chats, found a text document of {document.source!r}")
        ids = encode_chat(tokenizer, document.messages, add_generation_prompt=False)[:context]
        if len(ids) > 1:
            yield _block(ids, document.source)


def cut_blocks(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int,
    document_tokens: int,
) -> Iterator[TokenBlock]:
    """Yield blocks of exactly `context` tokens; documents of one source are joined by the end-of-text token.

    Of each document the first `document_tokens` tokens are used, so that no long one dominates. Chat
    documents go through the chat template and are then cut like text.
    """
    rests: dict[str, list[int]] = {}
    separator = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if not isinstance(separator, int) or separator == tokenizer.unk_token_id:
        separator = tokenizer.eos_token_id
    for document in documents:
        rest = rests.setdefault(document.source, [])
        rest += _document_ids(document, tokenizer, document_tokens)
        rest.append(separator)
        while len(rest) >= context:
            yield _block(rest[:context], document.source)
            del rest[:context]


def mixed_blocks(streams: list[Iterator[TokenBlock]], shares: list[float]) -> Iterator[TokenBlock]:
    """Interleave streams so that the tokens given so far follow the shares; ends when all streams have."""
    given = [0.0] * len(streams)
    live = set(range(len(streams)))
    while live:
        stream = min(live, key=lambda index: given[index] / shares[index])
        block = next(streams[stream], None)
        if block is None:
            live.remove(stream)
            continue
        given[stream] += block.kept_tokens
        yield block


def take_tokens(blocks: Iterable[TokenBlock], tokens: int) -> Iterator[TokenBlock]:
    """Pass blocks on until at least `tokens` kept tokens went by."""
    remaining = tokens
    if remaining <= 0:
        return
    for block in blocks:
        yield block
        remaining -= block.kept_tokens
        if remaining <= 0:
            return


def _block(ids: list[int], source: str) -> TokenBlock:
    # Position 0 is where a causal model parks unused attention: its activation says nothing about the text.
    return TokenBlock(ids=ids, keep=[False] + [True] * (len(ids) - 1), source=source)


def _document_ids(document: Document, tokenizer: PreTrainedTokenizerBase, limit: int) -> list[int]:
    if isinstance(document, TextDocument):
        return encode_prompt(tokenizer, document.text[: limit * _CHARACTERS_PER_TOKEN])[:limit]
    return encode_chat(tokenizer, document.messages, add_generation_prompt=False)[:limit]
