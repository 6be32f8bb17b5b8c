"""Documents, texts or conversations, and the order and the split in which a run sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from steerd.errors import SteerdError
from steerd.host.text import ChatMessage


class CorpusError(SteerdError):
    """A source that is missing, damaged or unreachable, or that holds something that is no document."""

    reason = "CORPUS_ERROR"


@dataclass(frozen=True, slots=True)
class TextDocument:
    """Plain text, cut into blocks."""

    text: str
    source: str
    where: str = field(default="a document", compare=False)
    """File and line, row or number, for messages about this document."""


@dataclass(frozen=True, slots=True)
class ChatDocument:
    """One conversation, which the host sees through its chat template."""

    messages: tuple[ChatMessage, ...]
    source: str
    where: str = field(default="a document", compare=False)
    """File and line, row or number, for messages about this document."""


Document = TextDocument | ChatDocument


def text_of(document: Document) -> str:
    """Return what is said in a document: its text, or its messages' contents but for system messages."""
    if isinstance(document, TextDocument):
        return document.text
    return "\n".join(message.content for message in document.messages if message.role != "system")


def shuffled(documents: Iterable[Document], generator: torch.Generator, window: int) -> Iterator[Document]:
    """Yield all documents in an order drawn from a sliding window of `window` of them."""
    held: list[Document] = []
    for document in documents:
        if len(held) < window:
            held.append(document)
            continue
        slot = int(torch.randint(window, (), generator=generator))
        chosen, held[slot] = held[slot], document
        yield chosen
    for slot in torch.randperm(len(held), generator=generator).tolist():
        yield held[slot]


def is_held_out(document: Document, *, share: float, seed: int) -> bool:
    """Say whether a document belongs to the held-out part; equal documents always fall on the same side."""
    digest = hashlib.blake2b(f"{seed}\n{_content(document)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _content(document: Document) -> str:
    if isinstance(document, TextDocument):
        return document.text
    return "\n".join(f"{message.role}: {message.content}" for message in document.messages)
