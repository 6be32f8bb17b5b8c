"""One SAE's page as a single HTML file: template, style, script and data in one, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from sae_train.report.record_rows import Breakdown, MetricRow
from sae_train.report.run_files import ReportError
from sae_train.report.script_json import script_json
from sae_train.report.visible_text import visible_text

DETAILS_A_CHUNK = 64  # features whose details a reader's browser parses at once

_SCRIPTS = ("charts.js", "features.js", "page.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One of the few numbers at the top."""

    title: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything that a page shows; texts are still as they came from their files."""

    title: str
    facts: Sequence[str]
    """What is said of the SAE under the title."""
    figures: Sequence[Figure]
    remarks: Sequence[str]
    """What the page lacks, and why."""
    metrics: Sequence[MetricRow]
    metric_notes: Sequence[str]
    """What is said of all metrics."""
    breakdowns: Sequence[Breakdown]
    recipe: Sequence[tuple[str, str]]
    overview: dict[str, Any]  # Any: JSON values, as the next
    """Curves, frontier and densities."""
    columns: dict[str, Any]
    tokens: dict[str, Any]
    """The texts that contexts count on, and which of them are special tokens."""
    details: Sequence[str]
    """One JSON object a feature."""


def render(page: Page) -> str:
    """Return the page as HTML."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible_text
    style, script = _asset("page.css"), "".join(_asset(name) for name in _SCRIPTS)
    return environment.from_string(_asset("page.html")).render(
        page=page,
        policy=_policy(style, script),
        style=style,
        script=script,
        data={
            name: script_json(_visible(value))
            for name, value in (
                ("overview", page.overview),
                ("columns", {**page.columns, "chunk": DETAILS_A_CHUNK}),
                ("tokens", page.tokens),
            )
        },
        chunks=[
            f"[{','.join(page.details[start : start + DETAILS_A_CHUNK])}]"
            for start in range(0, len(page.details), DETAILS_A_CHUNK)
        ],
    )


def _visible(value: Any) -> Any:  # Any: JSON values
    match value:
        case str():
            return visible_text(value)
        case list():
            return [_visible(item) for item in value]
        case dict():
            return {key: _visible(item) for key, item in value.items()}
        case _:
            return value


def write_whole_file(path: Path, text: str) -> None:
    """Write the file aside, flush it and rename it into place; raises ReportError."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ReportError(f"{path}: cannot be written: {error.strerror}") from error


def _asset(name: str) -> str:
    return (files("sae_train.report") / "page" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy under which nothing but these two texts runs and nothing is fetched."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
