"""What a run's log says of one SAE, as curves over the tokens it was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sae_train.report.metric_words import L0, VARIANCE_EXPLAINED
from sae_train.report.script_json import rounded
from steerd.sae.json_file import JsonObject

Kind = Literal["step", "evaluation"]

MOST_POINTS = 800

_NOT_CURVES = frozenset({"event", "time", "sae", "step", "tokens", "seconds"})

# Of an evaluation's many figures those that show how a run goes.
_EVALUATION_CURVES = (
    VARIANCE_EXPLAINED,
    L0,
    "mse",
    "mse_special_tokens",
    "features_dead",
    "features_dense",
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One number of the log at each of its records; what was not finite is None."""

    name: str
    kind: Kind
    """step: of the batch trained on; evaluation: of held-out tokens."""
    tokens: list[float]
    values: list[float | None]


def training_curves(records: Iterable[JsonObject], sae: str) -> list[Curve]:
    """Return every number of the SAE's step records, then some of its evaluations where there are several.

    A run that went on from a checkpoint logged some steps twice: the later record counts. Long curves are
    thinned to evenly spaced records, first and last among them.
    """
    mine = [record for record in records if record.get("sae") == sae and _is_number(record.get("tokens"))]
    steps = [{**step, **_object(step.get("parts"))} for step in _in_order(mine, "step")]
    evaluations = _in_order(mine, "evaluation")
    names = dict.fromkeys(name for step in steps for name in step if name not in _NOT_CURVES)
    curves = [_curve(name, "step", steps, steps) for name in names]
    if len(evaluations) > 1:
        measured = [_object(evaluation.get("metrics")) for evaluation in evaluations]
        curves += [_curve(name, "evaluation", evaluations, measured) for name in _EVALUATION_CURVES]
    return [curve for curve in curves if curve.values]


def _in_order(records: Sequence[JsonObject], kind: Kind) -> list[JsonObject]:
    """The records of a kind, one a step."""
    by_step = {r["step"]: r for r in records if r.get("event") == kind and _is_number(r.get("step"))}
    return _thinned([by_step[step] for step in sorted(by_step)])


def _curve(name: str, kind: Kind, records: list[JsonObject], values: list[JsonObject]) -> Curve:
    """The number of that name in each of `values`, at the tokens of the record beside it."""
    present = [(r, v[name]) for r, v in zip(records, values, strict=True) if _is_number(v.get(name))]
    return Curve(
        name=name,
        kind=kind,
        tokens=[rounded(record["tokens"], 9) for record, _ in present],
        values=[_finite(value) for _, value in present],
    )


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _thinned(records: list[JsonObject]) -> list[JsonObject]:
    if len(records) <= MOST_POINTS:
        return records
    last = len(records) - 1
    return [records[round(i * last / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: float) -> float | None:
    return rounded(value) if math.isfinite(value) else None
