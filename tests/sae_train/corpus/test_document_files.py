from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.document_files import write_documents
from sae_train.corpus.documents import ChatDocument, CorpusError, Document, TextDocument
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import SourceConfig
from steerd.host.text import ChatMessage

DOCUMENTS: list[Document] = [
    TextDocument("naïve\u2028\n\x00 \U0001f600", "a"),
    ChatDocument((ChatMessage("user", 'say "hi"'), ChatMessage("assistant", "")), "b"),
]


def read(path: Path) -> list[Document]:
    return list(read_documents(SourceConfig(path=str(path), mode="block"), CorpusCounts()))


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.zst"])
def test_documents_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    write_documents(tmp_path / name, DOCUMENTS * 3)

    assert read(tmp_path / name) == DOCUMENTS * 3
    assert os.listdir(tmp_path) == [name]


def test_the_output_may_be_the_input(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_documents(path, DOCUMENTS * 3)

    source = SourceConfig(path=str(path), mode="block")
    write_documents(path, (d for d in read_documents(source, CorpusCounts()) if d.source == "b"))

    assert read(path) == DOCUMENTS[1:] * 3


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.zst"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, name: str) -> None:
    write_documents(tmp_path / name, DOCUMENTS)
    endless = (TextDocument(os.urandom(500).hex(), "x") for _ in range(10_000))

    with pytest.raises(CorpusError, match=rf"{name}: cannot be written: File too large"):
        write_documents(tmp_path / name, endless)

    assert read(tmp_path / name) == DOCUMENTS
    assert os.listdir(tmp_path) == [name]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for path in (tmp_path / "absent" / "x.jsonl", tmp_path / "file" / "x.jsonl"):
        with pytest.raises(CorpusError, match=r"x\.jsonl: cannot be written: "):
            write_documents(path, DOCUMENTS)
