"""The toy data set of superposition: more independent, sparse features than dimensions.

Features as in "Toy Models of Superposition" (Elhage et al., 2022): each fires by itself with the same
probability and a magnitude uniform in [0, 1]; here with fixed directions, so that a recovery can be exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_train.known_truth.directions import spread_apart, unit_directions
from sae_train.known_truth.truth import TrueRows, combine


@dataclass(frozen=True, slots=True, kw_only=True)
class ToySettings:
    """The size of the toy."""

    num_features: int = 128
    d_model: int = 64
    probability: float = 0.025
    spreading_steps: int = 200
    spreading_rate: float = 1e-2
    seed: int = 42


class ToySuperposition:
    """The truth of one setting; its one generator is seeded by `settings.seed`."""

    def __init__(self, settings: ToySettings, *, device: torch.device | str = "cpu") -> None:
        """Draw the directions on the CPU, so that they are the same wherever they are sampled."""
        self.settings = settings
        generator = torch.Generator().manual_seed(settings.seed)
        start = unit_directions(settings.num_features, settings.d_model, generator)
        directions = spread_apart(
            start, steps=settings.spreading_steps, learning_rate=settings.spreading_rate
        )
        self.directions = directions.to(device)  # [num_features, d_model]

    def sample(self, rows: int, generator: torch.Generator) -> TrueRows:
        """Draw rows; the generator, of the truth's device, alone decides which."""
        device = self.directions.device
        shape = (rows, self.settings.num_features)
        chances = torch.rand(shape, generator=generator, device=device)
        fired_rows, features = (chances < self.settings.probability).nonzero(as_tuple=True)
        fired = (fired_rows, features)
        feature_acts = torch.zeros(shape, device=device)
        feature_acts[fired] = torch.rand(len(features), generator=generator, device=device)
        return TrueRows(resid=combine(feature_acts, fired, self.directions), feature_acts=feature_acts)
