"""The JumpReLU SAE: a feature is active above a threshold of its own, learnt by a straight-through kernel.

Rajamanoharan et al., arXiv 2407.14435. Shapes: x [B, d_model]; threshold [d_sae]; feature_acts [B, d_sae].
    pre_acts = (x - b_dec) @ W_enc + b_enc
    feature_acts = pre_acts where pre_acts > threshold, else 0
    x_hat = feature_acts @ W_dec + b_dec
    loss = mean squared error + the sparsity loss of L0, the number of active features a row
The jump at the threshold has no derivative by it. In its place stands the jump's height times a rectangle:
    d feature_acts / d threshold = -threshold / bandwidth, d L0 / d threshold = -1 / bandwidth
where |pre_acts - threshold| < bandwidth / 2, else 0. The threshold itself is the parameter, not its
logarithm, which Adam moves too little; it stays at 0 or above. Decoder rows have norm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sae_train.architectures.largest_entries import largest_of_batch
from sae_train.architectures.pre_acts import pre_act_blocks
from sae_train.architectures.served_form import exact_pre_acts, plain_form
from sae_train.architectures.sparse_code import decode, encode_above
from sae_train.architectures.step_numbers import activity, squared_error, unweighted_error, warmed_up
from sae_train.architectures.trainable_sae import SaeStep, TrainingBatch
from sae_train.architectures.unit_decoder import UnitDecoderSae
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder

# Started at target_l0 itself, features that the first rows do not rank highly are shut out before they learn:
# many stay dead, and those left settle for less.
_FIRST_DENSITY = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class JumpReLUSettings:
    """What a JumpReLU SAE is trained with."""

    target_l0: float
    """Active features a row, to which the quadratic losses lead; thresholds start where there are 8 times."""
    sparsity_loss: Literal["quadratic", "row_quadratic", "step"] = "quadratic"
    """quadratic: l0_coefficient * (L0 / target_l0 - 1)^2 of the batch's mean L0. row_quadratic: the mean of
    the same over the rows, each with its own L0; it suits rows that are all made of about as many features,
    with a coefficient of about 1/8 and a small encoder_norm. step: l0_coefficient * L0."""
    l0_coefficient: float = 1.0
    """Weight of the sparsity loss next to the mean squared error; it rises from 0 over the first 5 %."""
    bandwidth: float = 0.1
    """Width of the kernel around a threshold within which it learns; pre-activations are of order 1."""
    encoder_norm: float = 1.0
    """Norm of W_enc's columns at the start."""


class JumpReLUSae(UnitDecoderSae):
    """Parameters and loss of a JumpReLU SAE.

    On the first batch every threshold is set to the value above which _FIRST_DENSITY * target_l0 features a
    row are active.
    """

    started: Tensor

    def __init__(
        self,
        settings: JumpReLUSettings,
        d_model: int,
        d_sae: int,
        *,
        b_dec: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_model, d_sae, b_dec=b_dec, generator=generator, encoder_norm=settings.encoder_norm)
        self.settings = settings
        self.threshold = nn.Parameter(torch.zeros_like(self.b_enc))  # [d_sae]
        self.register_buffer("started", torch.zeros((), dtype=torch.bool, device=b_dec.device))

    def forward(self, batch: TrainingBatch) -> SaeStep:
        """Return the loss on a batch."""
        centred = (batch.x - self.b_dec).detach()
        if not self.started:
            self._start(centred, batch)
        bandwidth = self.settings.bandwidth
        lowest = self.threshold.detach() - bandwidth / 2
        pre_acts, entries = encode_above(self, centred, lowest)
        threshold = entries.spread(self.threshold)
        with torch.no_grad():
            is_active = (pre_acts > threshold).to(pre_acts.dtype)
            kernel = ((pre_acts - threshold).abs() < bandwidth / 2) / bandwidth
            height = kernel * threshold
        learning = threshold - threshold.detach()  # 0, with the threshold's gradient
        acts = pre_acts * is_active - height * learning
        l0_of_rows = entries.sum_by_row(is_active - kernel * learning)  # [rows]
        sparsity = self._sparsity(l0_of_rows, batch)
        error = batch.x - self.b_dec - decode(acts, self.W_dec, entries)
        fired, l0 = activity(acts, entries, batch)
        return SaeStep(
            loss=squared_error(error, batch) + warmed_up(self.settings.l0_coefficient, batch) * sparsity,
            fired=fired,
            mse=unweighted_error(error, batch),
            l0=l0,
            parts={"sparsity": sparsity.detach()},
        )

    @torch.no_grad()
    def _start(self, centred: Tensor, batch: TrainingBatch) -> None:
        count = round(_FIRST_DENSITY * self.settings.target_l0 * batch.total_rows)
        largest = largest_of_batch(
            lambda: pre_act_blocks(self, centred),
            count,
            last_smallest=torch.zeros((), device=centred.device),
            ranks=batch.ranks,
        )
        self.threshold.fill_(largest.smallest)
        self.started.fill_(True)

    def _sparsity(self, l0_of_rows: Tensor, batch: TrainingBatch) -> Tensor:
        """This rank's part of the sparsity loss, of its rows' L0 [rows]."""
        own_l0 = l0_of_rows.sum() / batch.total_rows
        target = self.settings.target_l0
        match self.settings.sparsity_loss:
            case "step":
                return own_l0
            case "row_quadratic":
                return (l0_of_rows / target - 1).square().sum() / batch.total_rows
            case "quadratic":
                # The square is of the whole batch's L0: an equal part of its value, and own_l0's part of its
                # slope.
                excess = batch.ranks.sum(own_l0.detach()) / target - 1
                return excess.square() / batch.ranks.size + 2 * excess / target * (own_l0 - own_l0.detach())

    @torch.no_grad()
    def constrain_parameters(self) -> None:
        """Bring the decoder rows back to norm 1 and the thresholds to 0 or above."""
        super().constrain_parameters()
        self.threshold.clamp_(min=0)

    def to_inference(self, scale: float) -> SparseAutoencoder:
        """Return the plain served form, with the thresholds."""
        return plain_form(self, JumpReLU(self.threshold.detach().double()), scale)

    @property
    def calibrated_l0(self) -> int | None:
        """None: the parameters decide."""
        return None

    @torch.no_grad()
    def reference_acts(self, x: Tensor) -> Tensor:
        """Return the pre-activations above their thresholds, in float64."""
        pre_acts = exact_pre_acts(self, x)
        return pre_acts * (pre_acts > self.threshold.double())
