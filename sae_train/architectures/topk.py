"""The TopK SAE: the k largest pre-activations of each row are active, where positive.

Gao et al., arXiv 2406.04093. Shapes: x [B, d_model]; feature_acts sparse [B, d_sae].
    pre_acts = (x - b_dec) @ W_enc + b_enc
    feature_acts = each row's k largest of relu(pre_acts)
    x_hat = feature_acts @ W_dec + b_dec
    loss = mean squared error + auxk_alpha * AuxK
Decoder rows have norm 1. Served as it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TopKSettings:
    """What a TopK SAE is trained with."""

    k: int
    """Active features a row, at most."""
    auxk_alpha: float = 1 / 32
    """Coefficient of the auxiliary loss that revives dead features; 0 turns it off."""
