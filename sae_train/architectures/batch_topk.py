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
from sae_train.architectures.entries import SparseEntries
from sae_train.architectures.largest_entries import largest_of_batch
from sae_train.architectures.pre_acts import pre_act_blocks
from sae_train.architectures.served_form import exact_pre_acts, plain_form
from sae_train.architectures.sparse_code import decode, encode
from sae_train.architectures.step_numbers import activity, squared_error, unweighted_error
from sae_train.architectures.trainable_sae import SaeStep, TrainingBatch
from sae_train.architectures.unit_decoder import UnitDecoderSae
from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTopKSettings:
    """What a batch-top-k SAE is trained with."""

    k: int
    """Active features a row, on average over a batch and, once served, over held-out tokens."""
    auxk_alpha: float = 1 / 32
    """Coefficient of the auxiliary loss that revives dead features; 0 turns it off."""
    encoder_norm: float = 1.0
    """Norm of W_enc's columns at the start. From 0.1 a short run on a host's activations explains a little
    more (0.005 of the variance) but leaves six times as many features without use."""


class BatchTopKSae(UnitDecoderSae):
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
        super().__init__(d_model, d_sae, b_dec=b_dec, generator=generator, encoder_norm=settings.encoder_norm)
        self.settings = settings
        self.register_buffer("last_smallest", torch.zeros((), device=b_dec.device))

    def forward(self, batch: TrainingBatch) -> SaeStep:
        """Return the loss on a batch."""
        centred = (batch.x - self.b_dec).detach()
        largest = largest_of_batch(
            lambda: pre_act_blocks(self, centred),
            self.settings.k * batch.total_rows,
            last_smallest=self.last_smallest,
            ranks=batch.ranks,
        )
        self.last_smallest.copy_(largest.smallest)
        entries = SparseEntries.from_flat(largest.indices, (len(batch.x), self.d_sae))
        acts = encode(self, centred, largest.values, entries)  # [nnz], positive
        errors = self._errors(acts, entries, batch.x)
        mse = torch.stack([squared_error(error, batch) for error in errors]).mean()
        auxiliary = auxk_loss(self, batch, errors[-1], alpha=self.settings.auxk_alpha)
        fired, l0 = activity(acts, entries, batch)
        return SaeStep(
            loss=mse + self.settings.auxk_alpha * auxiliary,
            fired=fired,
            mse=unweighted_error(errors[-1], batch),
            l0=l0,
            parts={"auxk": auxiliary.detach()},
        )

    def _errors(self, acts: Tensor, entries: SparseEntries, x: Tensor) -> list[Tensor]:
        """The errors [rows, d_model] whose squares count, that of the whole dictionary last."""
        return [x - self.b_dec - decode(acts, self.W_dec, entries)]

    def to_inference(self, scale: float) -> SparseAutoencoder:
        """Return the plain served form with a ReLU, for a calibrated threshold to replace."""
        return plain_form(self, ReLU(), scale)

    @property
    def calibrated_l0(self) -> int | None:
        """k."""
        return self.settings.k

    @torch.no_grad()
    def reference_acts(self, x: Tensor) -> Tensor:
        """Return relu(pre_acts) in float64, of which the threshold leaves the largest."""
        return torch.relu(exact_pre_acts(self, x))
