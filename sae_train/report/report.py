"""One page of an exported SAE, put together from all that is known of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_train.features.feature_evidence import Evidence
from sae_train.report.described_features import describe_features
from sae_train.report.feature_columns import (
    density_histogram,
    feature_columns,
    maximum_histogram,
    nearest_histogram,
)
from sae_train.report.feature_details import LEVELS, EncodedDetails
from sae_train.report.frontier import frontier
from sae_train.report.metric_words import (
    CROSS_ENTROPY_RECOVERED,
    DEAD_FEATURES,
    L0,
    VARIANCE_EXPLAINED,
    words_for,
)
from sae_train.report.page import DETAILS_A_CHUNK, Figure, Page, render
from sae_train.report.record_rows import breakdowns, metric_notes, metric_rows, path_rows
from sae_train.report.run_files import ReportError
from sae_train.report.script_json import rounded
from sae_train.report.token_table import TokenTable
from sae_train.report.training_curves import training_curves
from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts
from steerd.sae.json_file import JsonObject
from steerd.sae.nearest_features import NearestFeatures, nearest_features
from steerd.sae.sae_file import SaeBundle

NEIGHBOURS = 8
MAX_BYTES = 25_000_000
"""Bound on a page, so that a browser opens it at once; contexts are left out to stay below it."""

_REMARK_BYTES = 2_000  # for the remark on what was left out
_CHUNK_BYTES = 100  # for the element around a chunk of details
_FIGURES = {
    L0: "active features a token",
    VARIANCE_EXPLAINED: "of held-out activations",
    CROSS_ENTROPY_RECOVERED: "of the zero-ablation loss",
    DEAD_FEATURES: "never active",
}
_BY_TOKEN = "special_tokens_by_id"
_SHARES = frozenset({VARIANCE_EXPLAINED, CROSS_ENTROPY_RECOVERED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a page is made from."""

    bundle: SaeBundle
    features: int
    """How many features are listed, from the first on."""
    log: Sequence[JsonObject] = ()
    """The run's records, of all its SAEs."""
    others: Sequence[Path] = ()
    """SAE folders or evaluation cards to compare with."""
    host: HostModel | None = None
    evidence: Evidence | None = None
    remarks: Sequence[str] = ()
    """What could not be had, for the reader."""


def page_of(known: Known) -> str:
    """Return the page as HTML of at most MAX_BYTES; raises ReportError when even bare features are more."""
    table = TokenTable()
    bundle, features = known.bundle, known.features
    columns = feature_columns(features, bundle.statistics, bundle.notes, table)
    nearest = nearest_features(bundle.sae.W_dec, count=NEIGHBOURS, features=features)
    details = EncodedDetails(describe_features(bundle, nearest, known.host, known.evidence), table)
    page = _page(known, nearest, columns, table)
    spare = _REMARK_BYTES + _CHUNK_BYTES * (features // DETAILS_A_CHUNK + 1)
    details.fit(MAX_BYTES - len(render(page).encode()) - spare)
    remarks = [*page.remarks, *_cut_remarks(known, details)]
    html = render(dataclasses.replace(page, remarks=remarks, details=details.objects()))
    if len(html.encode()) <= MAX_BYTES:
        return html
    raise ReportError(
        f"{bundle.metadata.name}: a page of {features} features is larger than {MAX_BYTES} bytes; "
        f"list fewer with --features"
    )


def _page(known: Known, nearest: NearestFeatures, columns: dict[str, Any], table: TokenTable) -> Page:
    """The page before its features' details."""
    metadata, statistics = known.bundle.metadata, known.bundle.statistics
    provenance = metadata.provenance
    metrics = _object(provenance.get("metrics"))
    rest = {key: value for key, value in provenance.items() if key not in ("metrics", "format_version")}
    overview = {
        "curves": [
            {**asdict(curve), "title": words_for(curve.name).title}
            for curve in training_curves(known.log, metadata.name)
        ],
        "frontier": [asdict(point) for point in frontier((metadata.name, provenance), known.others)],
        "densities": density_histogram(statistics) if statistics is not None else None,
        "maxima": maximum_histogram(statistics) if statistics is not None else None,
        "nearest": nearest_histogram(nearest.cosines[:, 0].numpy()) if nearest.cosines.numel() else None,
    }
    return Page(
        title=metadata.name,
        facts=_facts(known),
        figures=_figures(provenance),
        remarks=known.remarks,
        metrics=metric_rows(metrics),
        metric_notes=metric_notes(metrics),
        breakdowns=breakdowns(_with_token_texts(metrics, known.host)),
        recipe=path_rows(rest),
        overview=overview,
        columns={**columns, "rows": known.evidence.rows if known.evidence is not None else None},
        tokens={"texts": table.texts(), "special": table.known(_special_tokens(known.host))},
        details=(),
    )


def _special_tokens(host: HostModel | None) -> list[str]:
    if host is None:
        return []
    texts = TokenTexts(host.tokenizer)
    return [texts.one(token_id) for token_id in sorted(host.special_token_ids)]


def _facts(known: Known) -> list[str]:
    metadata = known.bundle.metadata
    trained_as = metadata.provenance.get("training_architecture")
    kind = metadata.architecture
    tested = [note.shown_label.score for note in known.bundle.notes or ()]
    failing = [score.fails for score in tested if score is not None]
    return [
        f"{metadata.model_name} at {metadata.hook_point}",
        f"trained as {trained_as}, served as {kind}" if trained_as and trained_as != kind else str(kind),
        f"{metadata.d_sae:,} features of {metadata.d_model} dimensions",
        *([f"{sum(failing) / len(failing):.0%} of {len(failing):,} tested labels fail"] if failing else []),
    ]


def _figures(provenance: JsonObject) -> list[Figure]:
    metrics = provenance.get("metrics")
    training = provenance.get("training")
    figures = [
        Figure(title=words_for(name).title, value=_shown(name, value), note=note)
        for name, note in _FIGURES.items()
        if (value := _number(metrics, name)) is not None
    ]
    tokens = _number(training, "tokens")
    if tokens:
        figures.append(Figure(title="Trained on", value=f"{tokens / 1e6:,.1f} M", note="tokens"))
    return figures


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name in _SHARES else f"{rounded(value, 4):,}"


def _cut_remarks(known: Known, details: EncodedDetails) -> list[str]:
    remarks = []
    d_sae = known.bundle.sae.d_sae
    if known.features < d_sae:
        remarks.append(f"The first {known.features:,} of {d_sae:,} features are listed.")
    if details.contexts != LEVELS[0] and known.evidence is not None:
        top, sampled = details.contexts
        remarks.append(
            f"To stay below {MAX_BYTES / 1e6:.0f} MB each feature has at most {top} strongest "
            f"and {sampled} sampled contexts here."
        )
    return remarks


def _with_token_texts(metrics: JsonObject, host: HostModel | None) -> JsonObject:
    """Name special tokens by their texts where a host knows them."""
    by_id = _object(metrics.get(_BY_TOKEN))
    if host is None or not by_id:
        return metrics
    texts = TokenTexts(host.tokenizer)
    return {**metrics, _BY_TOKEN: {texts.one(int(i)): v for i, v in by_id.items() if i.isdecimal()}}


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _number(record: object, name: str) -> float | None:
    value = record.get(name) if isinstance(record, dict) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
