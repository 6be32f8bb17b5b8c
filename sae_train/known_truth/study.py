"""The study of a known truth: which architecture finds how much of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae_train.architectures.catalogue import Settings, check_settings
from sae_train.config import WARM_UP_SHARE, TrainingConfig
from sae_train.known_truth.learning import Candidate, learn
from sae_train.known_truth.presets import Preset
from sae_train.known_truth.recovery import Recovery, recovery
from sae_train.known_truth.truth import SAMPLE_BATCHES, KnownTruth, scored_rows, training_rows
from steerd.errors import ConfigError
from steerd.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A kind of SAE that takes part."""

    architecture: str
    settings: Settings
    learning_rate: float
    warm_up_share: float = WARM_UP_SHARE
    """Share of the run over which the learning rate rises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One SAE and its scores."""

    entrant: Entrant
    seed: int
    samples: int
    sae: SparseAutoencoder
    """Its served form."""
    scores: Recovery

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return one flat object, the architecture's settings and the scores among its values."""
        return {
            "architecture": self.entrant.architecture,
            **dataclasses.asdict(self.entrant.settings),
            "learning_rate": self.entrant.learning_rate,
            "warm_up_share": self.entrant.warm_up_share,
            "d_sae": self.sae.d_sae,
            "samples": self.samples,
            "seed": self.seed,
            **dataclasses.asdict(self.scores),
        }


def study(
    preset: Preset,
    entrants: Sequence[Entrant],
    *,
    seeds: Sequence[int],
    device: str = "cpu",
    on_step: Callable[[int], None] = lambda _rows: None,
) -> list[Finding]:
    """Train every entrant once with each seed, and score all on the same rows.

    A seed decides both the first weights and the rows of training. Raises ConfigError for what
    cannot be trained.
    """
    _check(preset, entrants, seeds)
    truth = preset.open(_usable(device))
    findings = []
    for seed in seeds:
        saes = _learnt(preset, truth, entrants, seed, device, on_step)
        for entrant, sae in zip(entrants, saes, strict=True):
            rows = scored_rows(truth, batch_size=preset.batch_size, device=device)
            scores = recovery(sae, truth.directions, rows)
            findings.append(
                Finding(entrant=entrant, seed=seed, samples=preset.samples, sae=sae, scores=scores)
            )
    return findings


def _check(preset: Preset, entrants: Sequence[Entrant], seeds: Sequence[int]) -> None:
    if preset.samples < preset.batch_size:
        raise ConfigError(f"samples: must be at least a batch of {preset.batch_size}, found {preset.samples}")
    if not seeds:
        raise ConfigError("seeds: must be at least 1, found 0")
    for entrant in entrants:
        check_settings(entrant.settings, preset.d_sae)
        if not 0 < entrant.learning_rate < math.inf:
            raise ConfigError(f"learning_rates: must be above 0, found {entrant.learning_rate:g}")
        if not 0 <= entrant.warm_up_share <= 1:
            raise ConfigError(f"warm_up_share: must be between 0 and 1, found {entrant.warm_up_share:g}")


def _usable(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch has no kind of its own for this
        raise ConfigError(f"device: {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _learnt(
    preset: Preset,
    truth: KnownTruth,
    entrants: Sequence[Entrant],
    seed: int,
    device: str,
    on_step: Callable[[int], None],
) -> list[SparseAutoencoder]:
    """The entrants' SAEs, trained side by side on one seed's rows."""
    stream = training_rows(truth, batch_size=preset.batch_size, seed=seed, device=device)
    sample = torch.cat([next(stream) for _ in range(SAMPLE_BATCHES)])
    training = TrainingConfig(tokens=preset.samples, batch_size=preset.batch_size)
    candidates = [
        Candidate(
            settings=entrant.settings,
            d_sae=preset.d_sae,
            learning_rate=entrant.learning_rate,
            warm_up_share=entrant.warm_up_share,
            seed=seed,
        )
        for entrant in entrants
    ]
    return learn(candidates, stream, sample=sample, training=training, on_step=on_step)
