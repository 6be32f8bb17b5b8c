"""Copies and near-copies left out, as arXiv 2506.07691 does before training: by shared word 20-grams.

The rule: documents are taken in order, and one is dropped when any of its grams is in a document that was
kept before it. So no two kept documents share a gram, whichever of them are held out later, and what is
kept of a family of near-copies is its first member.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.document_files import write_documents
from sae_train.corpus.documents import Document, text_of
from sae_train.corpus.gram_index import GramIndex
from sae_train.corpus.reading import read_documents
from sae_train.corpus.source import OnBadLine, SourceConfig
from steerd.errors import ConfigError

GRAM_LENGTH = 20

_GROUP_CHARACTERS = 1 << 20


@dataclass(slots=True)
class SourceFate:
    """What became of one source's documents."""

    kept: int = 0
    copies: int = 0
    """Dropped, because an earlier document that was kept shares a gram."""
    against: int = 0
    """Dropped, because a document of the files given with --against shares a gram."""


@dataclass(slots=True)
class Deduplication:
    """What a pass over some sources found; complete when its documents were taken."""

    sources: dict[str, SourceFate] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    """Lines that are no documents, by file."""
    num_grams: int = 0
    num_bytes: int = 0

    def fate(self, document: Document) -> SourceFate:
        """Return what is counted of the document's source."""
        return self.sources.setdefault(document.source, SourceFate())

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return the sums and each source's part of them."""
        fates = list(self.sources.values())
        sums = {name: sum(getattr(fate, name) for fate in fates) for name in ("kept", "copies", "against")}
        return {
            "documents": sum(sums.values()),
            **sums,
            "skipped": self.skipped,
            "grams": self.num_grams,
            "gram_table_bytes": self.num_bytes,
            "sources": {name: asdict(fate) for name, fate in sorted(self.sources.items())},
        }


def deduplicate(
    inputs: Sequence[str],
    output: Path | None,
    *,
    length: int = GRAM_LENGTH,
    against: Sequence[str] = (),
    on_bad_line: OnBadLine = "error",
) -> Deduplication:
    """Write the documents of `inputs` that are kept to `output`, whole or not at all; None: count only.

    Documents that share a gram with one of the files `against` (such as a held-out set) are dropped too.
    One pass, holding a few megabytes of text and 12 to 24 bytes for each gram of what is kept. Raises
    CorpusError, and ConfigError for a `length` below 1.
    """
    if length < 1:
        raise ConfigError(f"ngram: must be at least 1, found {length}")
    result = Deduplication()
    counts = CorpusCounts()
    other = index_documents(_documents(against, on_bad_line, counts), length)
    kept = _kept(_documents(inputs, on_bad_line, counts), GramIndex(length), other, result)
    if output is None:
        deque(kept, maxlen=0)
    else:
        write_documents(output, kept)
    result.skipped = {name: sum(found.skipped.values()) for name, found in counts.sources.items()}
    return result


def index_documents(documents: Iterable[Document], length: int = GRAM_LENGTH) -> GramIndex:
    """Return the index of all grams of some documents, say the held-out ones."""
    index = GramIndex(length)
    for group in _groups(documents):
        index.add(group)
    return index


def count_overlaps(documents: Iterable[Document], index: GramIndex) -> int:
    """Count the documents that share a gram with an index, say training documents with held-out ones."""
    return sum(int(index.overlaps(group).sum()) for group in _groups(documents))


def _kept(
    documents: Iterable[Document], index: GramIndex, other: GramIndex, result: Deduplication
) -> Iterator[Document]:
    for group in _groups(documents):
        is_against = other.overlaps(group)
        rest = [document for document, against in zip(group, is_against, strict=True) if not against]
        is_kept = index.admit(rest)
        for document in compress(group, is_against):
            result.fate(document).against += 1
        for document, keeps in zip(rest, is_kept, strict=True):
            if keeps:
                result.fate(document).kept += 1
                yield document
            else:
                result.fate(document).copies += 1
    result.num_grams, result.num_bytes = len(index.seen), index.seen.num_bytes


def _documents(paths: Sequence[str], on_bad_line: OnBadLine, counts: CorpusCounts) -> Iterator[Document]:
    for path in paths:
        yield from read_documents(SourceConfig(path=path, mode="block", on_bad_line=on_bad_line), counts)


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about the same number of characters."""
    group: list[Document] = []
    characters = 0
    for document in documents:
        group.append(document)
        characters += len(text_of(document))
        if characters > _GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group
