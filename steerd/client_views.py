"""What a client sees of a server beside its texts: what is served, watched and active there."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef, Intervention
from steerd.steering.steering import NamedVersion


@dataclass(frozen=True, slots=True)
class ServedSae:
    """One SAE that a server has loaded; `median_resid_norm` is that of the rows at its hook point."""

    name: str
    hook_point: str
    d_model: int
    d_sae: int
    architecture: str
    model_name: str
    weights_sha256: str
    has_statistics: bool
    median_resid_norm: float


@dataclass(frozen=True, slots=True)
class ServedPreset:
    """Steering that requests can name; directions are given by hash alone.

    Triggers are told by what they do and their names.
    """

    named: NamedVersion
    description: str
    interventions: tuple[Intervention, ...]
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedPolicy:
    """What holds for every request; None where a policy does not bound what requests ask for.

    Features are `sae:first-last`, presets `name`, `name@version` or `*`; triggers are told by what they do
    and their names.
    """

    named: NamedVersion
    description: str
    interventions: tuple[Intervention, ...]
    allowed: Allowed | None
    max_dose: float | None
    over_dose: str
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allowed:
    """The steering that requests may ask for."""

    features: tuple[str, ...]
    directions: bool
    reconstruct: bool
    presets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """One feature of a server's watch list; `threshold` is in the SAE's activation units."""

    feature: FeatureRef
    alias: str
    threshold: float = 0.0
    hot: bool = False


@dataclass(frozen=True, slots=True)
class WatchedActivity:
    """What one watched feature did in the time of a snapshot."""

    feature: FeatureRef
    alias: str
    active_tokens: int
    over_threshold_tokens: int
    max_activation: float


@dataclass(frozen=True, slots=True)
class ActivitySnapshot:
    """What the watched features did in some seconds; `lost` snapshots before it were left out."""

    seconds: float
    lost: int
    tokens: int
    features: tuple[WatchedActivity, ...]


@dataclass(frozen=True, slots=True)
class TopFeature:
    """A feature that is above its usual strength; strengths are shares of its recorded maximum."""

    feature: FeatureRef
    label: FeatureLabel
    active_share: float
    strength: float
    usual_strength: float


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Version and host model of a server."""

    version: str
    model: str
    device: str
    dtype: str
    max_context: int
    has_chat_template: bool
