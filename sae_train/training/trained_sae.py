"""An SAE at the end of its run, and what is to be said about the run."""

from __future__ import annotations

from dataclasses import dataclass

from sae_train.activations.activation_scale import ActivationScale
from sae_train.architectures.trainable_sae import TrainableSae
from sae_train.config import SaeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSae:
    """What export starts from."""

    config: SaeConfig
    sae: TrainableSae
    scale: ActivationScale
    steps: int
    tokens: int
    seconds: float
    """Wall time of the run's steps, of all its SAEs and resumed parts together."""
    outlier_share: float
    """Rows left out of training because they were too long at some hook point of the run."""
