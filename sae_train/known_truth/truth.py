"""What every data set with a known truth gives: the true directions, and rows with their true activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

SAMPLE_BATCHES = 64
_SCORED_BATCHES = 50
_SCORED_SEED = 1_000_003


class TrueRows(NamedTuple):
    """Activations as an SAE sees them, and the feature activations they were made of."""

    resid: Tensor
    """[rows, d_model] float32."""
    feature_acts: Tensor
    """[rows, num_features] float32, 0 where a feature does not fire."""


class KnownTruth(Protocol):
    """A data set whose features are known."""

    @property
    def directions(self) -> Tensor:
        """[num_features, d_model], rows of norm 1."""

    def sample(self, rows: int, generator: torch.Generator) -> TrueRows:
        """Draw rows; the generator alone decides which."""


def training_rows(
    truth: KnownTruth, *, batch_size: int, seed: int, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """Yield batches [batch_size, d_model] without end, drawn as they are asked for; the seed decides them.

    The first SAMPLE_BATCHES of them are for scale, centre and thresholds, and are not trained on.
    """
    generator = torch.Generator(device).manual_seed(seed)
    while True:
        yield truth.sample(batch_size, generator).resid


def scored_rows(
    truth: KnownTruth, *, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[TrueRows]:
    """Yield the rows on which every SAE of a truth is scored; none of them is trained on."""
    generator = torch.Generator(device).manual_seed(_SCORED_SEED)
    for _ in range(_SCORED_BATCHES):
        yield truth.sample(batch_size, generator)


def combine(feature_acts: Tensor, fired: tuple[Tensor, Tensor], directions: Tensor) -> Tensor:
    """Return feature_acts [rows, num_features] times directions, at the cost of the entries `fired` alone.

    `fired` holds the row and the feature of every entry that is not 0, in row order.
    """
    rows, features = fired
    starts = torch.zeros(len(feature_acts), dtype=torch.long, device=rows.device)
    torch.cumsum(torch.bincount(rows, minlength=len(feature_acts))[:-1], dim=0, out=starts[1:])
    return functional.embedding_bag(
        features, directions, starts, mode="sum", per_sample_weights=feature_acts[rows, features]
    )
