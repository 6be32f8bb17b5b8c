"""The batch-top-k SAE: of a batch of B rows, the k * B largest activations are active, wherever they fall.

Bussmann et al., arXiv 2412.06410. Shapes: x [B, d_model]; feature_acts sparse [B, d_sae].
    pre_acts = (x - b_dec) @ W_enc + b_enc
    feature_acts = the k * B largest of relu(pre_acts)
    x_hat = feature_acts @ W_dec + b_dec
    loss = mean squared error + auxk_alpha * AuxK
Decoder rows have norm 1. Served as JumpReLU: a threshold calibrated on held-out data stands for the choice
within a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.architectures.auxk import auxk_loss
from sae_train.architectures.largest_entries import largest_of_batch
from sae_train.architectures.sparse_code import ActiveEntries, decode_entries, encode_entries
from sae_train.architectures.squared_error import share_of_squares, unweighted_share
from sae_train.architectures.trainable_sae import SaeStep, TrainableSae, TrainingBatch
from sae_train.architectures.unit_decoder import normalise_rows, remove_parallel_gradient
from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.folding import fold_activation_scale, fold_b_dec_into_encoder, fold_decoder_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTopKSettings:
    """What a batch-top-k SAE is trained with."""

    k: int
    """Active features a row, on average over a batch and, once served, over held-out tokens."""
    auxk_alpha: float = 1 / 32
    """Coefficient of the auxiliary loss that revives dead features; 0 turns it off."""


class BatchTopKSae(TrainableSae):
    """Parameters and loss of a batch-top-k SAE."""

    last_smallest: Tensor

    def __init__(
        self,
        settings: BatchTopKSettings,
        d_model: int,
        d_sae: int,
        *,
        b_dec: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_model, d_sae, b_dec=b_dec, generator=generator)
        self.settings = settings
        # Where the search for a batch's largest entries begins: the last batch's smallest chosen one.
        self.register_buffer("last_smallest", torch.zeros((), device=b_dec.device))

    def forward(self, batch: TrainingBatch) -> SaeStep:
        """Return the loss on a batch."""
        centred = batch.x - self.b_dec
        with torch.no_grad():
            pre_acts = torch.addmm(self.b_enc, centred, self.W_enc)  # [B, d_sae]
            count = self.settings.k * batch.total_rows
            flat, values = largest_of_batch(
                pre_acts, count, last_smallest=self.last_smallest, ranks=batch.ranks
            )
            entries = ActiveEntries.from_flat(flat, (len(batch.x), self.d_sae))
        feature_acts = encode_entries(centred, self.W_enc, self.b_enc, values, entries)  # [nnz]
        error = batch.x - self.b_dec - decode_entries(feature_acts, self.W_dec, entries)
        auxiliary = auxk_loss(self, batch, error)
        return SaeStep(
            loss=share_of_squares(error, batch) + self.settings.auxk_alpha * auxiliary,
            fired=entries.fired(),
            mse=unweighted_share(error, batch),
            l0=error.new_tensor(len(values) / batch.total_rows),
            parts={"auxk": auxiliary.detach()},
        )

    def constrain_gradient(self) -> None:
        """Keep the decoder rows' norms to first order."""
        remove_parallel_gradient(self.W_dec)

    def constrain_parameters(self) -> None:
        """Bring the decoder rows back to norm 1."""
        normalise_rows(self.W_dec)

    def to_inference(self, scale: float) -> SparseAutoencoder:
        """Return the plain served form with a ReLU, for a calibrated threshold to replace."""
        sae = SparseAutoencoder(
            W_enc=self.W_enc.detach().cpu(),
            b_enc=self.b_enc.detach().cpu(),
            W_dec=self.W_dec.detach().cpu(),
            b_dec=self.b_dec.detach().cpu(),
            activation=ReLU(),
        )
        return fold_decoder_norm(fold_activation_scale(fold_b_dec_into_encoder(sae), scale))

    @property
    def calibrated_l0(self) -> int | None:
        """k."""
        return self.settings.k

    @torch.no_grad()
    def reference_acts(self, x: Tensor) -> Tensor:
        """Return what is left of the choice without a threshold: all positive pre-activations, in float64."""
        W_enc, b_enc, b_dec = self.W_enc.double(), self.b_enc.double(), self.b_dec.double()
        return torch.relu((x.double() - b_dec) @ W_enc + b_enc)
