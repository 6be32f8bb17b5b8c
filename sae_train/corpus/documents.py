"""Corpus files as a stream of documents: .jsonl, .jsonl.zst and .txt; a document is a text or a chat.

A JSON line is an object with `text` (a string) or `messages` (a list of {role, content}), and optionally
`source` (a string; the file's name without suffixes when absent). A .txt file is one document.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import zstandard

from steerd.errors import SteerdError
from steerd.host.text import ChatMessage


class CorpusError(SteerdError):
    """A corpus file that is missing, damaged or holds a line that is no document."""

    reason = "CORPUS_ERROR"


@dataclass(frozen=True, slots=True)
class TextDocument:
    """Plain text, cut into blocks."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class ChatDocument:
    """One conversation, to be seen by the host alone and through its chat template."""

    messages: tuple[ChatMessage, ...]
    source: str


Document = TextDocument | ChatDocument


def read_documents(path: Path) -> Iterator[Document]:
    """Yield every document of a file in file order; raises CorpusError naming file and line."""
    source = path.name.split(".")[0]
    if path.name.endswith(".txt"):
        with _open_text(path) as file:
            yield TextDocument(text=file.read(), source=source)
    elif path.name.endswith((".jsonl", ".jsonl.zst")):
        with _open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield parse_document(line, source=source, where=f"{path}, line {number}")
    else:
        raise CorpusError(f"{path}: the name must end in .jsonl, .jsonl.zst or .txt")


def parse_document(line: str, *, source: str, where: str) -> Document:
    """Read one JSON line; raises CorpusError that begins with `where`."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where}: not a JSON object: {error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: expected a JSON object, found {type(value).__name__}")
    source = _string(value.get("source", source), "source", where)
    if "messages" in value:
        return ChatDocument(messages=_messages(value["messages"], where), source=source)
    if "text" in value:
        return TextDocument(text=_string(value["text"], "text", where), source=source)
    raise CorpusError(f"{where}: neither 'text' nor 'messages' among the keys {sorted(value)}")


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


def _messages(value: Any, where: str) -> tuple[ChatMessage, ...]:  # Any: what a JSON line may hold
    if not isinstance(value, list) or not value:
        raise CorpusError(f"{where}: 'messages' must be a list of at least one message")
    messages = []
    for index, message in enumerate(value):
        if not isinstance(message, dict):
            raise CorpusError(f"{where}: messages[{index}] must be an object with role and content")
        role = _string(message.get("role"), f"messages[{index}].role", where)
        content = _string(message.get("content"), f"messages[{index}].content", where)
        messages.append(ChatMessage(role=role, content=content))
    return tuple(messages)


def _string(value: Any, field: str, where: str) -> str:  # Any: what a JSON line may hold
    if not isinstance(value, str):
        raise CorpusError(f"{where}: {field} must be a string, found {type(value).__name__}")
    return value


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("rb") as raw:
            packed = path.name.endswith(".zst")
            stream: Any = zstandard.ZstdDecompressor().stream_reader(raw) if packed else raw
            with io.TextIOWrapper(stream, encoding="utf-8") as file:
                yield file
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    except zstandard.ZstdError as error:
        raise CorpusError(f"{path}: damaged zstandard data: {error}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
