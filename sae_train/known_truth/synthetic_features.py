"""Synthetic activations with known features, as hard as a language model's in the ways that are known.

A generator like SynthSAEBench (arXiv 2602.14687): features fire with Zipfian probabilities, correlated
through a few shared causes, in hierarchies of mutually exclusive children; their directions are many more
than the dimensions and only nearly orthogonal; the stream has a bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.known_truth.directions import spread_apart, unit_directions
from sae_train.known_truth.feature_tree import compensated, prune, scale_by_parents, tree_levels
from sae_train.known_truth.truth import TrueRows, combine

# Of a feature's variance at least this much is its own, however strongly the shared causes weigh.
_LEAST_OWN_VARIANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSettings:
    """The size and the shape of the truth; the shape's defaults are those of the 16k benchmark."""

    num_features: int
    d_model: int
    roots: int
    """Trees of features; the most frequent features are the roots."""
    branching: int = 4
    depth: int = 3
    """Generations below the roots."""
    zipf_exponent: float = 0.5
    largest_probability: float = 0.4
    smallest_probability: float = 5e-4
    correlation_rank: int = 25
    correlation_scale: float = 0.1
    """Standard deviation of a feature's weight on each of the shared causes."""
    spreading_steps: int = 100
    spreading_rate: float = 3e-4
    first_magnitude: float = 5.0
    """Mean magnitude of the most frequent feature."""
    last_magnitude: float = 4.0
    magnitude_spread: float = 0.5
    """Each feature's magnitudes vary by |N(spread, spread)| of its own."""
    bias_norm: float = 0.5
    seed: int = 42


class SyntheticFeatures:
    """The truth of one setting; its one generator is seeded by `settings.seed`."""

    def __init__(self, settings: SyntheticSettings, *, device: torch.device | str = "cpu") -> None:
        """Draw the truth on the CPU, so that it is the same wherever it is sampled."""
        generator = torch.Generator().manual_seed(settings.seed)
        self.settings = settings
        self._levels = tree_levels(
            settings.num_features, roots=settings.roots, branching=settings.branching, depth=settings.depth
        )
        start = unit_directions(settings.num_features, settings.d_model, generator)
        directions = spread_apart(
            start, steps=settings.spreading_steps, learning_rate=settings.spreading_rate
        )
        self.directions = directions.to(device)  # [num_features, d_model]
        bias = unit_directions(1, settings.d_model, generator)[0] * settings.bias_norm
        self.bias = bias.to(device)  # [d_model]
        self.probabilities = zipf_probabilities(settings).to(device)  # [num_features]
        causes = settings.correlation_scale * torch.randn(
            settings.num_features, settings.correlation_rank, generator=generator
        )
        self._causes, self._own = (part.to(device) for part in _unit_variance(causes))
        magnitudes = torch.linspace(settings.first_magnitude, settings.last_magnitude, settings.num_features)
        self._magnitudes = magnitudes.to(device)
        spread = settings.magnitude_spread * (1 + torch.randn(settings.num_features, generator=generator))
        self._spread = spread.abs().to(device)
        # A standard normal exceeds the threshold with the probability.
        drawn = compensated(self.probabilities, self._levels)
        self._thresholds = math.sqrt(2) * torch.erfinv(1 - 2 * drawn)

    def sample(self, rows: int, generator: torch.Generator) -> TrueRows:
        """Draw rows; the generator, of the truth's device, alone decides which."""
        fires = self._wishes(rows, generator)
        prune(fires, self._levels, generator)
        fired_rows, features = fires.nonzero(as_tuple=True)
        fired = (fired_rows, features)
        noise = torch.randn(len(features), generator=generator, device=self.bias.device)
        feature_acts = torch.zeros(rows, self.settings.num_features, device=self.bias.device)
        feature_acts[fired] = (self._magnitudes[features] + self._spread[features] * noise).relu()
        scale_by_parents(feature_acts, fired, self._levels, self._magnitudes)
        resid = combine(feature_acts, fired, self.directions) + self.bias
        return TrueRows(resid=resid, feature_acts=feature_acts)

    def _wishes(self, rows: int, generator: torch.Generator) -> Tensor:
        """Which features would fire if there were no trees, [rows, num_features] bool.

        They do where correlated standard normals exceed the thresholds.
        """
        device = self.bias.device
        shared = torch.randn(rows, self._causes.shape[1], generator=generator, device=device)
        own = torch.randn(rows, self.settings.num_features, generator=generator, device=device)
        return own.mul_(self._own).addmm_(shared, self._causes.t()) > self._thresholds


def zipf_probabilities(settings: SyntheticSettings) -> Tensor:
    """Return how often features fire, [num_features]: rank ** -exponent, brought to the bounds linearly."""
    ranks = torch.arange(1, settings.num_features + 1, dtype=torch.float32)
    weights = ranks**-settings.zipf_exponent
    share = (weights - weights[-1]) / (weights[0] - weights[-1])
    low, high = settings.smallest_probability, settings.largest_probability
    return low + (high - low) * share


def _unit_variance(causes: Tensor) -> tuple[Tensor, Tensor]:
    """Weights on the shared causes [num_features, rank] and on a feature's own noise; variances sum to 1."""
    shared = causes.square().sum(dim=1, keepdim=True)
    causes = causes * torch.sqrt((1 - _LEAST_OWN_VARIANCE) / shared.clamp(min=1 - _LEAST_OWN_VARIANCE))
    return causes, torch.sqrt(1 - causes.square().sum(dim=1))
