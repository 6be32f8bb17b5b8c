"""Where an SAE stands among others: what is kept of the host at what number of active features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sae_train.report.metric_words import CROSS_ENTROPY_RECOVERED, L0, VARIANCE_EXPLAINED
from sae_train.report.run_files import read_card
from steerd.sae.json_file import JsonObject


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One SAE's evaluation card, cut down to what the frontier shows."""

    name: str
    group: str
    """Architecture, width and hook point: what points of one line have in common."""
    l0: float
    variance_explained: float | None
    cross_entropy_recovered: float | None
    this: bool
    """Whether it is the SAE that the page is about."""


def frontier(this: tuple[str, JsonObject], others: Iterable[Path]) -> list[FrontierPoint]:
    """Return the page's SAE and the others whose cards say an L0, by L0; raises SaeFileError.

    Others are SAE folders or their steerd.json.
    """
    name, provenance = this
    points = [_point(name, provenance, this=True)]
    for path in others:
        folder = path if path.is_dir() else path.parent
        points.append(_point(folder.resolve().name, read_card(path), this=False))
    return sorted((point for point in points if point is not None), key=lambda point: point.l0)


def _point(name: str, provenance: JsonObject, *, this: bool) -> FrontierPoint | None:
    metrics = provenance.get("metrics")
    l0 = _number(metrics, L0)
    if l0 is None:
        return None
    recipe = provenance.get("recipe")
    sae = recipe.get("sae") if isinstance(recipe, dict) else None
    width = sae.get("d_sae") if isinstance(sae, dict) else None
    known = [provenance.get("training_architecture"), width, provenance.get("hook_point")]
    return FrontierPoint(
        name=name,
        group=" · ".join(str(part) for part in known if part is not None),
        l0=l0,
        variance_explained=_number(metrics, VARIANCE_EXPLAINED),
        cross_entropy_recovered=_number(metrics, CROSS_ENTROPY_RECOVERED),
        this=this,
    )


def _number(metrics: object, name: str) -> float | None:
    value = metrics.get(name) if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
