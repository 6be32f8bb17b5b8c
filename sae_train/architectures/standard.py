"""The standard SAE: ReLU, and a penalty on activations that counts each by its decoder row's norm.

Anthropic, April 2024 update. Shapes: x [B, d_model]; feature_acts [B, d_sae].
    feature_acts = relu((x - b_dec) @ W_enc + b_enc)
    x_hat = feature_acts @ W_dec + b_dec
    loss = (mean over rows of |x - x_hat|^2 + l1_coefficient * sum_f feature_acts_f |W_dec_f|) / d_model
The coefficient rises from 0 over the first 5 % of the run. Decoder norms are free, and folded at export.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StandardSettings:
    """What a standard SAE is trained with."""

    l1_coefficient: float = 5.0
    """Weight of the sparsity penalty, for inputs whose mean squared norm is d_model."""
