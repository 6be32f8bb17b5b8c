"""Documents written as a .jsonl or .jsonl.zst file, whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zstandard

from sae_train.corpus.documents import CorpusError, Document, TextDocument


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """Write one JSON line a document: text or messages, and source.

    The file appears when it is complete; until then, and whatever fails, an older one stays as it was. It may
    be one of the files that the documents come from. Raises CorpusError when it cannot be written.
    """
    if not path.name.endswith((".jsonl", ".jsonl.zst")):
        raise CorpusError(f"{path}: the name of the output must end in .jsonl or .jsonl.zst")
    aside = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    try:
        with _created(aside) as write:
            for document in documents:
                write(_line(document))
        aside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _line(document: Document) -> bytes:
    content: dict[str, Any]  # Any: JSON values
    if isinstance(document, TextDocument):
        content = {"text": document.text}
    else:
        content = {"messages": [{"role": m.role, "content": m.content} for m in document.messages]}
    return json.dumps(content | {"source": document.source}, ensure_ascii=False).encode() + b"\n"


@contextmanager
def _created(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Give what writes to a new file, packed when its name says so; left without error, it is on the disk."""
    with path.open("xb") as file:
        if path.name.endswith(".zst"):
            compressor = zstandard.ZstdCompressor(level=9, write_checksum=True)
            with compressor.stream_writer(file, closefd=False) as packed:
                yield packed.write
        else:
            yield file.write
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
