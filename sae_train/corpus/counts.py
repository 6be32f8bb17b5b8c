"""What became of a run's documents, by source: nothing is left out without being counted here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class SourceCounts:
    """One source's documents, as far as the stream has been read."""

    documents: int = 0
    """Documents that gave tokens."""
    truncated: int = 0
    """Of these, the ones that were longer than the context or the bound on one document's tokens."""
    tokens: int = 0
    """Tokens in the blocks given so far."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Documents that gave no tokens, by reason."""
    leftover_tokens: int = 0
    """Tokens at the end of the stream that did not fill a block."""


@dataclass(slots=True)
class CorpusCounts:
    """The counts of every source, by the name that the documents carry."""

    sources: dict[str, SourceCounts] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason of a skip, what was wrong with the first document."""

    def clear(self) -> None:
        """Count from the beginning again."""
        self.sources.clear()
        self.examples.clear()

    def of(self, source: str) -> SourceCounts:
        """Return the source's counts, new ones when it was not seen before."""
        return self.sources.setdefault(source, SourceCounts())

    def add_document(self, source: str, *, is_truncated: bool) -> None:
        """Count a document that gives tokens."""
        counts = self.of(source)
        counts.documents += 1
        counts.truncated += is_truncated

    def skip(self, source: str, reason: str, example: str) -> None:
        """Count a document that gives no tokens."""
        skipped = self.of(source).skipped
        skipped[reason] = skipped.get(reason, 0) + 1
        self.examples.setdefault(reason, example)

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return the counts for a run's log: those of each source, and an example of each kind of skip."""
        by_source = {name: asdict(counts) for name, counts in sorted(self.sources.items())}
        return {"sources": by_source, "examples": self.examples}
