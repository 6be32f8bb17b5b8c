"""The batch-top-k SAE: of a batch of B rows, the k * B largest activations are active, wherever they fall.

Shapes: x [B, d_model], scaled so that its mean square is 1; feature_acts sparse [B, d_sae].
    pre_acts = (x - b_dec) @ W_enc + b_enc
    feature_acts = the k * B largest of relu(pre_acts)
    x_hat = feature_acts @ W_dec + b_dec
Served as JumpReLU: a threshold calibrated on held-out data stands for the choice within a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sae_train.architectures.sparse_code import ActiveEntries, decode_entries, encode_entries
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.folding import fold_activation_scale, fold_b_dec_into_encoder, fold_decoder_norm

# Entries above this share of the last step's smallest chosen value are looked at first.
_CANDIDATE_MARGIN = 0.8


@dataclass(frozen=True, slots=True)
class SaeStep:
    """What one forward of a trainable SAE gives; `loss` carries the gradient."""

    loss: Tensor
    mse: float
    """Mean squared error per number of the scaled activations, whose mean square is 1."""
    auxiliary_loss: float
    l0: float
    smallest_active: float
    fired: Tensor
    """[d_sae] bool: features active somewhere in the batch."""


class BatchTopKSae(nn.Module):
    """Parameters and loss of a batch-top-k SAE; decoder rows stay of norm 1."""

    def __init__(
        self, d_model: int, d_sae: int, k: int, *, b_dec: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        directions = torch.randn(d_sae, d_model, generator=generator).to(b_dec.device)
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.W_enc = nn.Parameter(directions.t().contiguous())  # [d_model, d_sae]
        self.b_enc = nn.Parameter(torch.zeros(d_sae, device=b_dec.device))
        self.W_dec = nn.Parameter(directions)  # [d_sae, d_model]
        self.b_dec = nn.Parameter(b_dec.clone())
        self.k = k
        self.last_smallest = 0.0  # where the search for a batch's largest entries begins

    def forward(self, x: Tensor, *, dead: Tensor, auxk_alpha: float) -> SaeStep:
        """Return the loss on a batch; `dead` [d_sae] bool marks whom the auxiliary loss is to revive."""
        centred = x - self.b_dec
        with torch.no_grad():
            pre_acts = torch.addmm(self.b_enc, centred, self.W_enc)  # [B, d_sae]
            start = self.last_smallest * _CANDIDATE_MARGIN
            flat, values = largest_entries(pre_acts, self.k * len(x), start=start)
            entries = ActiveEntries.from_flat(flat, (len(x), len(self.b_enc)))
            self.last_smallest = float(values.min()) if len(values) else 0.0
        feature_acts = encode_entries(centred, self.W_enc, self.b_enc, values, entries)  # [nnz]
        error = x - self.b_dec - decode_entries(feature_acts, self.W_dec, entries)
        mse = error.square().mean()
        auxiliary = self._auxiliary_loss(centred, error.detach(), dead)
        fired = torch.zeros_like(dead)
        fired[entries.features] = True
        return SaeStep(
            loss=mse + auxk_alpha * auxiliary,
            mse=mse.item(),
            auxiliary_loss=auxiliary.item(),
            l0=len(values) / len(x),
            smallest_active=self.last_smallest,
            fired=fired,
        )

    def _auxiliary_loss(self, centred: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """How badly the dead features alone, the d_model / 2 largest a row, rebuild what is left over."""
        features = dead.nonzero().squeeze(1)
        if len(features) == 0:
            return error.new_zeros(())
        acts = torch.relu(centred.detach() @ self.W_enc[:, features] + self.b_enc[features])  # [B, dead]
        limit = error.shape[1] // 2
        if len(features) > limit:
            top = torch.topk(acts, limit, dim=1, sorted=False)
            acts = torch.zeros_like(acts).scatter(1, top.indices, top.values)
        left = (error - acts @ self.W_dec[features]).square().mean()
        return torch.nan_to_num(left / (error - error.mean(dim=0)).square().mean())

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Take from each decoder row's gradient the part that would change its norm."""
        assert self.W_dec.grad is not None
        along = (self.W_dec.grad * self.W_dec).sum(dim=1, keepdim=True)
        self.W_dec.grad.sub_(along * self.W_dec)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring every decoder row back to norm 1."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))

    def to_inference(self, scale: float, threshold: float) -> SparseAutoencoder:
        """Return the plain served form on unscaled activations, in float64, decoder rows of norm 1.

        `threshold` is in the units of training (on `scale` * activations).
        """
        sae = SparseAutoencoder(
            W_enc=self.W_enc.detach().cpu(),
            b_enc=self.b_enc.detach().cpu(),
            W_dec=self.W_dec.detach().cpu(),
            b_dec=self.b_dec.detach().cpu(),
            activation=JumpReLU(torch.full((len(self.b_enc),), threshold, dtype=torch.float64)),
        )
        return fold_decoder_norm(fold_activation_scale(fold_b_dec_into_encoder(sae), scale))


def largest_entries(pre_acts: Tensor, count: int, *, start: float) -> tuple[Tensor, Tensor]:
    """Return flat indices (ascending) and values of the `count` largest positive entries, exactly.

    Looks first at entries above `start`; where those are too few, at all positive ones.
    """
    flat = pre_acts.view(-1)
    candidates = (flat > max(start, 0.0)).nonzero().squeeze(1)
    if len(candidates) < count and start > 0:
        candidates = (flat > 0).nonzero().squeeze(1)
    values = flat[candidates]
    if len(candidates) > count:
        chosen = torch.topk(values, count, sorted=False).indices.sort().values
        candidates, values = candidates[chosen], values[chosen]
    return candidates, values
