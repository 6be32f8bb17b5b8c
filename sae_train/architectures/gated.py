"""The gated SAE: one path decides which features are active, another how much.

Rajamanoharan et al., arXiv 2404.16014. Shapes: x [B, d_model]; gate, magnitude and feature_acts [B, d_sae].
    gate = (x - b_dec) @ W_enc + b_enc
    magnitude = (x - b_dec) @ (W_enc * exp(r_mag)) + b_mag
    feature_acts = relu(magnitude) where gate > 0, else 0
    x_hat = feature_acts @ W_dec + b_dec
    loss = mean squared error
         + l1_coefficient * mean over rows of sum_f relu(gate)_f / d_model
         + mean squared error of relu(gate) @ W_dec + b_dec, whose W_dec and b_dec do not learn from it
The coefficient rises from 0 over the first 5 % of the run. Decoder rows have norm 1. Served as JumpReLU on
the magnitude: gate > 0 says magnitude > b_mag - exp(r_mag) * b_enc.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sae_train.architectures.served_form import folded
from sae_train.architectures.sparse_code import decode, encode_above
from sae_train.architectures.step_numbers import activity, squared_error, unweighted_error, warmed_up
from sae_train.architectures.trainable_sae import SaeStep, TrainingBatch
from sae_train.architectures.unit_decoder import UnitDecoderSae
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedSettings:
    """What a gated SAE is trained with."""

    l1_coefficient: float = 5.0
    """Weight of the gate's sparsity penalty, for inputs whose mean squared norm is d_model."""


class GatedSae(UnitDecoderSae):
    """Parameters and loss of a gated SAE; b_enc is the gate's."""

    def __init__(
        self,
        settings: GatedSettings,
        d_model: int,
        d_sae: int,
        *,
        b_dec: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_model, d_sae, b_dec=b_dec, generator=generator)
        self.settings = settings
        self.r_mag = nn.Parameter(torch.zeros_like(self.b_enc))  # [d_sae]
        self.b_mag = nn.Parameter(torch.zeros_like(self.b_enc))  # [d_sae]

    def forward(self, batch: TrainingBatch) -> SaeStep:
        """Return the loss on a batch."""
        centred = (batch.x - self.b_dec).detach()
        gate, entries = encode_above(self, centred, 0.0)
        products = gate - entries.spread(self.b_enc)  # (x - b_dec) @ W_enc
        magnitude = products * entries.spread(torch.exp(self.r_mag)) + entries.spread(self.b_mag)
        gate_acts = torch.relu(gate)
        acts = torch.relu(magnitude) * (gate > 0)
        error = batch.x - self.b_dec - decode(acts, self.W_dec, entries)
        gate_error = batch.x - self.b_dec.detach() - decode(gate_acts, self.W_dec.detach(), entries)
        penalty = gate_acts.sum() / (batch.total_rows * self.d_model)
        auxiliary = squared_error(gate_error, batch)
        sparsity = warmed_up(self.settings.l1_coefficient, batch) * penalty
        fired, l0 = activity(acts, entries, batch)
        return SaeStep(
            loss=squared_error(error, batch) + sparsity + auxiliary,
            fired=fired,
            mse=unweighted_error(error, batch),
            l0=l0,
            parts={"l1": penalty.detach(), "gate_mse": auxiliary.detach()},
        )

    def to_inference(self, scale: float) -> SparseAutoencoder:
        """Return the plain served form of the magnitude path, with the gate as its threshold."""
        gain, b_mag = self.r_mag.detach().double().exp(), self.b_mag.detach().double()
        threshold = b_mag - gain * self.b_enc.detach().double()
        sae = SparseAutoencoder(
            W_enc=self.W_enc.detach().double() * gain,
            b_enc=b_mag,
            W_dec=self.W_dec.detach().double(),
            b_dec=self.b_dec.detach().double(),
            activation=JumpReLU(threshold.clamp(min=0)),  # a negative one never decides
        )
        return folded(sae, scale)

    @property
    def calibrated_l0(self) -> int | None:
        """None: the parameters decide."""
        return None

    @torch.no_grad()
    def reference_acts(self, x: Tensor) -> Tensor:
        """Return relu of the magnitude where the gate is open, in float64."""
        products = (x.double() - self.b_dec.double()) @ self.W_enc.double()
        magnitude = products * self.r_mag.double().exp() + self.b_mag.double()
        return torch.relu(magnitude) * (products + self.b_enc.double() > 0)
