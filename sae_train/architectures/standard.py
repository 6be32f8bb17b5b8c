"""The standard SAE: ReLU, and a penalty on activations that counts each by its decoder row's norm.

Anthropic, April 2024 update. Shapes: x [B, d_model]; feature_acts [B, d_sae].
    feature_acts = relu((x - b_dec) @ W_enc + b_enc)
    x_hat = feature_acts @ W_dec + b_dec
    loss = (mean over rows of |x - x_hat|^2 + l1_coefficient * sum_f feature_acts_f |W_dec_f|) / d_model
The coefficient rises from 0 over the first 5 % of the run. Decoder norms are free, and folded at export.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.architectures.served_form import exact_pre_acts, plain_form
from sae_train.architectures.sparse_code import decode, encode_above
from sae_train.architectures.step_numbers import activity, squared_error, unweighted_error, warmed_up
from sae_train.architectures.trainable_sae import SaeStep, TrainableSae, TrainingBatch
from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder

_INITIAL_NORM = 0.1  # of encoder columns and decoder rows, as published


@dataclass(frozen=True, kw_only=True, slots=True)
class StandardSettings:
    """What a standard SAE is trained with."""

    l1_coefficient: float = 5.0
    """Weight of the sparsity penalty, for inputs whose mean squared norm is d_model."""


class StandardSae(TrainableSae):
    """Parameters and loss of a standard SAE."""

    def __init__(
        self,
        settings: StandardSettings,
        d_model: int,
        d_sae: int,
        *,
        b_dec: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_model, d_sae, b_dec=b_dec, generator=generator, encoder_norm=_INITIAL_NORM)
        self.settings = settings
        with torch.no_grad():
            self.W_dec.mul_(_INITIAL_NORM)

    def forward(self, batch: TrainingBatch) -> SaeStep:
        """Return the loss on a batch."""
        centred = (batch.x - self.b_dec).detach()
        pre_acts, entries = encode_above(self, centred, 0.0)
        acts = torch.relu(pre_acts)
        error = batch.x - self.b_dec - decode(acts, self.W_dec, entries)
        weighted = entries.sum_by_feature(acts) * torch.linalg.vector_norm(self.W_dec, dim=1)  # [d_sae]
        penalty = weighted.sum() / (batch.total_rows * self.d_model)
        fired, l0 = activity(acts, entries, batch)
        return SaeStep(
            loss=squared_error(error, batch) + warmed_up(self.settings.l1_coefficient, batch) * penalty,
            fired=fired,
            mse=unweighted_error(error, batch),
            l0=l0,
            parts={"l1": penalty.detach()},
        )

    def to_inference(self, scale: float) -> SparseAutoencoder:
        """Return the plain served form, decoder norms folded, with a ReLU."""
        return plain_form(self, ReLU(), scale)

    @property
    def calibrated_l0(self) -> int | None:
        """None: the parameters decide."""
        return None

    @torch.no_grad()
    def reference_acts(self, x: Tensor) -> Tensor:
        """Return relu(pre_acts) times the decoder rows' norms, in float64."""
        norms: Tensor = torch.linalg.vector_norm(self.W_dec.double(), dim=1)
        return torch.relu(exact_pre_acts(self, x)) * norms
