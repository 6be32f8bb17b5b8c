"""What every trainable SAE is to the training loop: parameters, a loss, constraints, a served form.

Inputs x [rows, d_model] are scaled so that their mean squared norm is d_model. All architectures share
    pre_acts = (x - b_dec) @ W_enc + b_enc
    x_hat = feature_acts @ W_dec + b_dec
and differ in how pre_acts become feature_acts and in what the loss adds to the squared error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sae_train.ranks import ALONE, Ranks
from steerd.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """One step's rows as one rank sees them; the ranks' parts are equally long and make up the batch."""

    x: Tensor
    """[rows, d_model] float32, scaled."""
    dead: Tensor
    """[d_sae] bool: features that have not fired for the dead window; the same on every rank."""
    weights: Tensor | None = None
    """[rows] float32, how much each row's error counts, with mean 1 over the whole batch; None: all alike."""
    progress: float = 1.0
    """Share of the run that is done, for coefficients that warm up."""
    ranks: Ranks = ALONE

    @property
    def total_rows(self) -> int:
        """Rows of the whole batch."""
        return len(self.x) * self.ranks.size


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeStep:
    """What one forward gives. Every number is this rank's part: summed over the ranks it is the batch's."""

    loss: Tensor
    """Scalar with gradient; the ranks' gradients sum to the batch's."""
    fired: Tensor
    """[d_sae] bool: features active in some row of this rank."""
    mse: Tensor
    """Scalar: mean squared error per number of x, unweighted."""
    l0: Tensor
    """Scalar: mean number of active features a row."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """The loss's other terms by name, scalars, before their coefficients; for the log."""


class TrainableSae(nn.Module, ABC):
    """Parameters and loss of one SAE. Subclasses own their further parameters and any state to be saved.

    Whatever decides the next step besides parameters (such as where a search starts) is a registered buffer,
    so `state_dict` is the whole state.
    """

    def __init__(
        self,
        d_model: int,
        d_sae: int,
        *,
        b_dec: Tensor,
        generator: torch.Generator,
        encoder_norm: float = 1.0,
    ) -> None:
        """Start from the given b_dec [d_model] and random directions.

        W_dec's rows are the directions, of norm 1; W_enc's columns are the same, of norm `encoder_norm`.
        """
        super().__init__()
        directions = torch.randn(d_sae, d_model, generator=generator)
        directions = (directions / directions.norm(dim=1, keepdim=True)).to(b_dec.device)
        self.W_enc = nn.Parameter(encoder_norm * directions.t().contiguous())  # [d_model, d_sae]
        self.b_enc = nn.Parameter(torch.zeros(d_sae, device=b_dec.device))
        self.W_dec = nn.Parameter(directions.clone())  # [d_sae, d_model]
        self.b_dec = nn.Parameter(b_dec.clone())

    @property
    def d_model(self) -> int:
        """Width of the stream it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    @abstractmethod
    def forward(self, batch: TrainingBatch) -> SaeStep:
        """Return the loss on a batch."""

    def constrain_gradient(self) -> None:
        """Called between the backward (gradients summed over ranks) and the optimiser's step."""

    def constrain_parameters(self) -> None:
        """Called after the optimiser's step."""

    @abstractmethod
    def to_inference(self, scale: float) -> SparseAutoencoder:
        """Return the plain served form on unscaled activations, in float64, decoder rows of norm 1.

        Its activations are those of training divided by `scale`. Where training chose within a batch it has
        a ReLU, for a threshold that is calibrated afterwards to replace.
        """

    @property
    @abstractmethod
    def calibrated_l0(self) -> int | None:
        """The mean L0 to which a serving threshold must be calibrated; None where the parameters decide."""

    @abstractmethod
    def reference_acts(self, x: Tensor) -> Tensor:
        """Return what `to_inference(scale).encode(x / scale)` times `scale` must equal, in float64.

        x [rows, d_model] is scaled. Computed from the parameters by the plainest dense formula, sharing no
        code with `forward` or the folds: it is what the export is compared with.
        """
