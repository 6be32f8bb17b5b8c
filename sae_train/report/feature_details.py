"""What the page says of each feature beyond its line in the table, as JSON, within a bound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sae_train.report.script_json import rounded, script_json
from sae_train.report.token_table import TokenTable
from steerd.sae.feature_label import FeatureLabel


@dataclass(frozen=True, slots=True)
class PageContext:
    """A context as the page shows it."""

    tokens: Sequence[str]
    values: Sequence[float]
    peak: int
    """Which token the context is shown for."""
    percentile: float | None = None
    """Per cent of the feature's active tokens that are less active; None for the strongest contexts."""


@dataclass(frozen=True, slots=True)
class FeatureDetails:
    """One feature's page; what is not known is empty."""

    histogram: Sequence[int] = ()
    """Active tokens by activation, in equal bins from 0 to the feature's maximum."""
    neighbours: Sequence[tuple[int, float]] = ()
    """Features and cosines."""
    promoted: Sequence[tuple[str, float | None]] = ()
    """Tokens and effects, as `suppressed`."""
    suppressed: Sequence[tuple[str, float | None]] = ()
    top: Sequence[PageContext] = ()
    sampled: Sequence[PageContext] = field(default=())
    labels: Sequence[FeatureLabel] = ()
    """All it has, with their tests."""


# How many strongest and sampled contexts a page holds at most, from the best case to none.
LEVELS = ((10, 8), (8, 6), (7, 5), (6, 4), (5, 3), (4, 2), (3, 2), (3, 0), (2, 0), (1, 0), (0, 0))


class EncodedDetails:
    """All features' pages as JSON, with as many contexts as there is room for."""

    def __init__(self, details: Iterable[FeatureDetails], table: TokenTable) -> None:
        """Encode everything once; the table gets every text."""
        self._features = [_encode(one, table) for one in details]
        self.contexts = LEVELS[0]
        """How many strongest and sampled contexts each feature shows at most."""

    def fit(self, max_bytes: int) -> None:
        """Leave out contexts until the objects take at most `max_bytes` together; at least none is left."""
        for level in LEVELS:
            self.contexts = level
            if sum(feature.size(*level) for feature in self._features) <= max_bytes:
                return

    def objects(self) -> list[str]:
        """Return one JSON object a feature."""
        return [feature.text(*self.contexts) for feature in self._features]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A feature's JSON in parts, so that contexts can be left out without encoding again."""

    head: str
    top: list[str]
    sampled: list[str]

    def size(self, top: int, sampled: int) -> int:
        """Bytes of the text and a separator; it is all ASCII."""
        parts = [*self.top[:top], *_spread(self.sampled, sampled)]
        return len(self.head) + sum(map(len, parts)) + len(parts) + len(',"top":[],"sampled":[]},')

    def text(self, top: int, sampled: int) -> str:
        chosen = ",".join(_spread(self.sampled, sampled))
        return f'{self.head[:-1]},"top":[{",".join(self.top[:top])}],"sampled":[{chosen}]}}'


def _encode(details: FeatureDetails, table: TokenTable) -> _Encoded:
    head = {
        "labels": [_label(label) for label in details.labels],
        "histogram": list(details.histogram),
        "neighbours": [[feature, rounded(cosine, 3)] for feature, cosine in details.neighbours],
        "promoted": _effects(details.promoted, table),
        "suppressed": _effects(details.suppressed, table),
    }
    return _Encoded(
        head=script_json(head),
        top=[_context(context, table) for context in details.top],
        sampled=[_context(context, table) for context in details.sampled],
    )


def _label(label: FeatureLabel) -> list[Any]:  # Any: JSON values
    """[text, who wrote it, [method, value, whether it fails, judge, value where strong] a test]."""
    tests = [
        [
            score.method,
            rounded(score.value, 3),
            score.fails,
            score.judge,
            None if score.strong is None else rounded(score.strong, 3),
        ]
        for score in label.scores
    ]
    return [label.text, label.by, tests]


def _effects(tokens: Sequence[tuple[str, float | None]], table: TokenTable) -> list[list[float | None]]:
    return [[table.number(text), None if effect is None else rounded(effect, 3)] for text, effect in tokens]


def _context(context: PageContext, table: TokenTable) -> str:
    """[tokens, [place, value, place, value, ..], peak, percentile]: most values are 0 and left out."""
    active: list[float] = []
    for place, value in enumerate(context.values):
        if value:
            active += [place, rounded(value, 3)]
    encoded: list[Any] = [table.numbers(context.tokens), active, context.peak]  # Any: JSON values
    if context.percentile is not None:
        encoded.append(round(context.percentile))
    return script_json(encoded)


def _spread(parts: list[str], count: int) -> list[str]:
    """As many parts, evenly spaced, so that samples still cover the whole range."""
    if count >= len(parts):
        return parts
    return [parts[int((i + 0.5) * len(parts) / count)] for i in range(count)]
