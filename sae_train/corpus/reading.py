"""A source as a stream of documents, whatever its format; what a bad line does is the source's choice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.documents import CorpusError, Document, TextDocument
from sae_train.corpus.records import Record, parse_line, parse_record
from sae_train.corpus.source import HUB_PREFIX, SUFFIXES, SourceConfig
from sae_train.corpus.tables import hub_rows, parquet_rows
from sae_train.corpus.text_files import open_text

NOT_A_DOCUMENT = "not a document"

# Documents are joined into blocks by source and statistics are kept by source: a column of addresses is none.
_MAX_SOURCES = 1000


def read_documents(source: SourceConfig, counts: CorpusCounts) -> Iterator[Document]:
    """Yield every document of a source in its order, holding one (or a few hundred table rows) at a time.

    Raises CorpusError naming file and line, row or document number; with `on_bad_line = "skip"` what is no
    document is counted instead. A file that is missing, damaged or cut off, or a hub that is gone, is always
    an error.
    """
    origins: set[str] = set()
    for document in _documents(source, counts):
        origins.add(document.source)
        if len(origins) > _MAX_SOURCES:
            raise CorpusError(
                f"{document.where}: {source.source_column!r} has more than {_MAX_SOURCES} different values, "
                'too many to be sources; name another source_column, or none ("")'
            )
        yield document


def source_name(source: SourceConfig) -> str:
    """What documents are said to be from that do not say it themselves: the file's or data set's name."""
    if source.is_on_hub:
        return source.path.removeprefix(HUB_PREFIX).rstrip("/").split("/")[-1]
    return Path(source.path).name.split(".")[0]


def _documents(source: SourceConfig, counts: CorpusCounts) -> Iterator[Document]:
    name = source_name(source)
    if not source.is_on_hub and source.path.endswith(".txt"):
        yield _whole_text(Path(source.path), name)
        return
    for where, content in _records(source):
        try:
            record = parse_line(content, where) if isinstance(content, bytes) else content
            document = parse_record(record, source, name=name, where=where)
        except CorpusError as error:
            if source.on_bad_line == "error":
                raise
            counts.skip(name, NOT_A_DOCUMENT, str(error))
        else:
            yield document


def _records(source: SourceConfig) -> Iterator[tuple[str, bytes | Record]]:
    if source.is_on_hub:
        yield from hub_rows(source)
    elif source.path.endswith(".parquet"):
        yield from parquet_rows(source)
    elif source.path.endswith((".jsonl", ".jsonl.zst")):
        yield from _lines(Path(source.path))
    else:
        raise CorpusError(f"{source.path}: the name must end in one of {', '.join(SUFFIXES)}")


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.isspace():
                yield f"{path}, line {number}", line


def _whole_text(path: Path, name: str) -> Document:
    with open_text(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8").replace("\r\n", "\n")
        return TextDocument(text=text, source=name, where=str(path))
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
