"""The TopK SAE: the k largest pre-activations of each row are active, where positive.

Gao et al., arXiv 2406.04093. Shapes: x [B, d_model]; feature_acts sparse [B, d_sae].
    pre_acts = (x - b_dec) @ W_enc + b_enc
    feature_acts = relu of each row's k largest pre_acts
    x_hat = feature_acts @ W_dec + b_dec
    loss = mean squared error + auxk_alpha * AuxK
Decoder rows have norm 1. Served as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.architectures.auxk import auxk_loss
from sae_train.architectures.entries import SparseEntries
from sae_train.architectures.largest_entries import largest_of_rows
from sae_train.architectures.pre_acts import entries_of_blocks, pre_act_blocks
from sae_train.architectures.served_form import exact_pre_acts, plain_form
from sae_train.architectures.sparse_code import decode, encode
from sae_train.architectures.step_numbers import activity, squared_error, unweighted_error
from sae_train.architectures.trainable_sae import SaeStep, TrainingBatch
from sae_train.architectures.unit_decoder import UnitDecoderSae
from steerd.sae.activation_function import TopK
from steerd.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, kw_only=True, slots=True)
class TopKSettings:
    """What a TopK SAE is trained with."""

    k: int
    """Active features a row, at most."""
    auxk_alpha: float = 1 / 32
    """Coefficient of the auxiliary loss that revives dead features; 0 turns it off."""
    encoder_norm: float = 0.1
    """Norm of W_enc's columns at the start. What a small encoder first learns soon outweighs its random
    directions; more is explained then than from norm 1, on a host's activations as on a known truth."""


class TopKSae(UnitDecoderSae):
    """Parameters and loss of a TopK SAE."""

    def __init__(
        self,
        settings: TopKSettings,
        d_model: int,
        d_sae: int,
        *,
        b_dec: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_model, d_sae, b_dec=b_dec, generator=generator, encoder_norm=settings.encoder_norm)
        self.settings = settings

    def forward(self, batch: TrainingBatch) -> SaeStep:
        """Return the loss on a batch."""
        centred = (batch.x - self.b_dec).detach()
        flat, values = entries_of_blocks(
            pre_act_blocks(self, centred), lambda block: largest_of_rows(block, self.settings.k)
        )
        entries = SparseEntries.from_flat(flat, (len(batch.x), self.d_sae))
        acts = torch.relu(encode(self, centred, values, entries))  # [nnz]
        error = batch.x - self.b_dec - decode(acts, self.W_dec, entries)
        auxiliary = auxk_loss(self, batch, error, alpha=self.settings.auxk_alpha)
        fired, l0 = activity(acts, entries, batch)
        return SaeStep(
            loss=squared_error(error, batch) + self.settings.auxk_alpha * auxiliary,
            fired=fired,
            mse=unweighted_error(error, batch),
            l0=l0,
            parts={"auxk": auxiliary.detach()},
        )

    def to_inference(self, scale: float) -> SparseAutoencoder:
        """Return the plain served form, with TopK."""
        return plain_form(self, TopK(self.settings.k), scale)

    @property
    def calibrated_l0(self) -> int | None:
        """None: a row's choice is its own."""
        return None

    @torch.no_grad()
    def reference_acts(self, x: Tensor) -> Tensor:
        """Return relu of the k largest pre-activations of each row, in float64."""
        pre_acts = exact_pre_acts(self, x)
        smallest = pre_acts.sort(dim=1, descending=True).values[:, self.settings.k - 1 : self.settings.k]
        return torch.relu(pre_acts) * (pre_acts >= smallest)
