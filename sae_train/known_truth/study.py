"""The study of a known truth: which architecture finds how much of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae_train.architectures.catalogue import check_settings
from sae_train.config import TrainingConfig
from sae_train.known_truth.learning import Candidate, learn
from sae_train.known_truth.presets import Preset
from sae_train.known_truth.recovery import Recovery, recovery
from sae_train.known_truth.truth import KnownTruth, TrueRows, batches
from steerd.errors import ConfigError

SAMPLE_BATCHES = 64  # for scale, centre and thresholds
SCORED_BATCHES = 50
_SCORED_SEED = 1_000_003  # of rows that no SAE is trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One SAE and its scores."""

    architecture: str
    candidate: Candidate
    samples: int
    scores: Recovery

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return one flat object, the architecture's settings and the scores among its values."""
        values = dataclasses.asdict(self.candidate)
        return {
            "architecture": self.architecture,
            "samples": self.samples,
            **values.pop("settings"),
            **values,
            **dataclasses.asdict(self.scores),
        }


def study(
    preset: Preset,
    *,
    architectures: Sequence[str],
    learning_rates: Sequence[float],
    seeds: int,
    device: str = "cpu",
    on_step: Callable[[int], None] = lambda _rows: None,
) -> list[Finding]:
    """Train every architecture with every learning rate, `seeds` times, and score all on the same rows.

    Seed s decides both the first weights and the rows of training. Raises ConfigError for an unknown
    architecture, bad settings or fewer samples than a batch.
    """
    if preset.samples < preset.batch_size:
        raise ConfigError(f"samples: must be at least a batch of {preset.batch_size}, found {preset.samples}")
    named = [(name, preset.settings(name)) for name in architectures]
    for _, settings in named:
        check_settings(settings, preset.d_sae)
    truth = preset.open(device)
    training = TrainingConfig(tokens=preset.samples, batch_size=preset.batch_size)
    findings = []
    for seed in range(seeds):
        contest = [
            (name, Candidate(settings=settings, d_sae=preset.d_sae, learning_rate=rate, seed=seed))
            for name, settings in named
            for rate in learning_rates
        ]
        generator = torch.Generator(device).manual_seed(seed)
        stream = batches(truth, batch_size=preset.batch_size, generator=generator)
        sample = torch.cat([next(stream) for _ in range(SAMPLE_BATCHES)])
        candidates = [candidate for _, candidate in contest]
        saes = learn(candidates, stream, sample=sample, training=training, on_step=on_step)
        for (name, candidate), sae in zip(contest, saes, strict=True):
            scores = recovery(sae, truth.directions, scored_rows(truth, preset.batch_size, device))
            findings.append(
                Finding(architecture=name, candidate=candidate, samples=preset.samples, scores=scores)
            )
    return findings


def scored_rows(truth: KnownTruth, batch_size: int, device: str = "cpu") -> Iterator[TrueRows]:
    """Yield the rows on which every SAE of a truth is scored."""
    generator = torch.Generator(device).manual_seed(_SCORED_SEED)
    for _ in range(SCORED_BATCHES):
        yield truth.sample(batch_size, generator)
