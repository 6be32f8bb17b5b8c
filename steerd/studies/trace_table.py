"""What SAEs of several layers read at some tokens of a text, as data."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.sae.feature_label import FeatureLabel
from steerd.studies.applied_steering import AppliedSteering


@dataclass(frozen=True, slots=True)
class TracedFeature:
    """An active feature; `share` is the length of what it contributes by the length of the row."""

    feature: int
    activation: float
    share: float
    label: FeatureLabel | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TracedRow:
    """One SAE's view of one token's row: its strongest features, in falling order, and what it leaves out.

    `resid_norm` is the length of the row, `error_norm` of what the SAE does not explain of it, `unexplained`
    the square of their quotient. `active` features are above 0 in all.
    """

    sae: str
    hook_point: str
    position: int
    resid_norm: float
    error_norm: float
    unexplained: float
    active: int
    features: tuple[TracedFeature, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceTable:
    """The rows, SAE by SAE in the order of the forward, of a text's tokens."""

    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    rows: tuple[TracedRow, ...]
    steering: AppliedSteering
    complete: bool
