"""Documents as token blocks, in the data modes that arXiv 2506.07691 compares.

- fast (FAST): each conversation alone through the chat template, truncated at the context
- block on conversations (BT(F)): through the chat template, joined, cut at the context
- block on texts (BT(P)): joined, cut at the context

No document is dropped unseen: `CorpusCounts` says which were truncated and which gave no tokens, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import ChatDocument, CorpusError, Document
from sae_train.corpus.source import OnBadLine
from sae_train.corpus.tokenised import tokenised

NO_TOKENS = "no tokens"
ONE_TOKEN = "one token, which as the first of its sequence is never trained on"


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
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int,
    on_bad_line: OnBadLine = "error",
    counts: CorpusCounts | None = None,
) -> Iterator[TokenBlock]:
    """Yield each conversation alone, through the chat template, truncated to `context` tokens.

    Raises CorpusError for a text, and as `tokenised` does for what the template refuses.
    """
    counts = CorpusCounts() if counts is None else counts
    chats = _only_chats(documents)
    for document in tokenised(chats, tokenizer, limit=context, on_bad_line=on_bad_line, counts=counts):
        if len(document.ids) < 2:
            counts.skip(document.source, ONE_TOKEN if document.ids else NO_TOKENS, document.where)
            continue
        counts.add_document(document.source, is_truncated=document.is_truncated)
        yield _block(document.ids, document.source, counts)


def cut_blocks(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int,
    document_tokens: int,
    on_bad_line: OnBadLine = "error",
    counts: CorpusCounts | None = None,
) -> Iterator[TokenBlock]:
    """Yield blocks of exactly `context` tokens; documents of one source are joined by the end-of-text token.

    Of each document the first `document_tokens` tokens are used, so that no long one dominates. Chat
    documents go through the chat template and are then cut like text.
    """
    counts = CorpusCounts() if counts is None else counts
    separator = _separator(tokenizer)
    rests: dict[str, list[int]] = {}
    for document in tokenised(
        documents, tokenizer, limit=document_tokens, on_bad_line=on_bad_line, counts=counts
    ):
        if not document.ids:
            counts.skip(document.source, NO_TOKENS, document.where)
            continue
        counts.add_document(document.source, is_truncated=document.is_truncated)
        ids = [*rests.get(document.source, []), *document.ids, separator]
        whole = len(ids) - len(ids) % context
        rests[document.source] = ids[whole:]
        for start in range(0, whole, context):
            yield _block(ids[start : start + context], document.source, counts)
    for source, rest in rests.items():
        counts.of(source).leftover_tokens += len(rest)


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


def _only_chats(documents: Iterable[Document]) -> Iterator[ChatDocument]:
    for document in documents:
        if not isinstance(document, ChatDocument):
            raise CorpusError(
                f"{document.where}: mode 'fast' needs chats, found a text document of {document.source!r}"
            )
        yield document


def _separator(tokenizer: PreTrainedTokenizerBase) -> int:
    separator = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if not isinstance(separator, int) or separator == tokenizer.unk_token_id:
        separator = tokenizer.eos_token_id
    if not isinstance(separator, int):
        raise CorpusError(
            "mode 'block' joins documents by an end-of-text token, and the host's tokenizer has none"
        )
    return separator


def _block(ids: list[int], source: str, counts: CorpusCounts) -> TokenBlock:
    # Position 0 is where a causal model parks unused attention: its activation says nothing about the text.
    counts.of(source).tokens += len(ids) - 1
    return TokenBlock(ids=ids, keep=[False] + [True] * (len(ids) - 1), source=source)
