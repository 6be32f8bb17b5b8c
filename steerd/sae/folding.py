"""Other conventions turned into the plain form of `SparseAutoencoder`, at load and at export.

Every fold computes and returns float64, so that several in a row cost one rounding: the one that follows
them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from steerd.sae.activation_function import JumpReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder


def fold_b_dec_into_encoder(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The plain form of an SAE whose encoder reads x - b_dec instead of x."""
    sae = sae.to(dtype=torch.float64)
    return replace(sae, b_enc=sae.b_enc - sae.b_dec @ sae.W_enc)


def fold_activation_scale(sae: SparseAutoencoder, scale: float) -> SparseAutoencoder:
    """The plain form of an SAE that reads, and reconstructs, scale * x instead of x; its activations stay."""
    sae = sae.to(dtype=torch.float64)
    return replace(sae, W_enc=sae.W_enc * scale, W_dec=sae.W_dec / scale, b_dec=sae.b_dec / scale)


def fold_decoder_norm(sae: SparseAutoencoder, *, ranked_by_norm: bool = False) -> SparseAutoencoder:
    """The same reconstruction with decoder rows of norm 1, the norms having moved into the activations.

    A TopK SAE would then choose other features, so it is refused with ValueError, unless its rows have norm 1
    already, or `ranked_by_norm` says that it has always chosen by pre-activation times decoder norm.
    """
    sae = sae.to(dtype=torch.float64)
    norms = sae.W_dec.norm(dim=1)  # [d_sae]
    if isinstance(sae.activation, TopK) and not ranked_by_norm and not _all_one(norms):
        raise ValueError("decoder norms cannot be folded into a TopK SAE: it would choose other features")
    activation = sae.activation
    if isinstance(activation, JumpReLU):
        activation = JumpReLU(activation.threshold * norms)
    # A zero row has no direction and adds nothing: with norm 0 its activation becomes 0, and the row stays 0.
    divisors = norms.masked_fill(norms == 0, 1.0).unsqueeze(1)
    return SparseAutoencoder(
        W_enc=sae.W_enc * norms,
        b_enc=sae.b_enc * norms,
        W_dec=sae.W_dec / divisors,
        b_dec=sae.b_dec,
        activation=activation,
    )


def _all_one(norms: Tensor) -> bool:
    """To within the rounding of rows that were made unit in float32 and stored in bfloat16."""
    return bool(((norms - 1).abs() < 1e-2).all())
