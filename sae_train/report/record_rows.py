"""Records of steerd.json as tables: metrics with what they mean, everything else by its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sae_train.report.metric_words import Words, words_for
from steerd.sae.json_file import JsonObject


class MetricRow(NamedTuple):
    """One line of the table: the name in the file, in words, and its value."""

    name: str
    words: Words
    value: str


class Breakdown(NamedTuple):
    """A metric with figures for each of several things, as a table of its own."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def metric_rows(metrics: JsonObject) -> list[MetricRow]:
    """Return every figure and short word of an evaluation's metrics."""
    return [
        MetricRow(name, words_for(name), _shown(value))
        for name, value in metrics.items()
        if not isinstance(value, list | dict) and value is not None and not _is_sentence(value)
    ]


def metric_notes(metrics: JsonObject) -> list[str]:
    """Return the sentences among an evaluation's metrics, warnings first."""
    warnings = metrics.get("warnings")
    listed = warnings if isinstance(warnings, list) else []
    return [*map(str, listed), *(value for value in metrics.values() if _is_sentence(value))]


def breakdowns(metrics: JsonObject) -> list[Breakdown]:
    """Return a table for each metric that is an object of objects, such as figures by special token."""
    found = []
    for name, value in metrics.items():
        if isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values()):
            columns = list(dict.fromkeys(column for inner in value.values() for column in inner))
            rows = [(key, [_shown(inner.get(c, "")) for c in columns]) for key, inner in value.items()]
            found.append(Breakdown(words_for(name).title, columns, rows))
    return found


def path_rows(record: JsonObject) -> list[tuple[str, str]]:
    """Return every value of a nested record with its path."""
    return [(path, _shown(value)) for path, value in _flat(record, "")]


def _flat(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{index}]")
    elif value is not None and value != "":
        yield path, value


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and len(value.split()) > 2


def _shown(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
