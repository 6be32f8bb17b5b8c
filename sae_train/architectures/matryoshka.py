"""The matryoshka batch-top-k SAE: the first features alone rebuild x as well as they can, then more of them.

Bussmann et al., arXiv 2503.17547. The choice is the batch-top-k SAE's; with prefixes of w_i features, d_sae last
    x_hat_i = feature_acts[:, :w_i] @ W_dec[:w_i] + b_dec
    loss = the mean over i of x_hat_i's mean squared error, + auxk_alpha * AuxK
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class MatryoshkaSettings:
    """What a matryoshka batch-top-k SAE is trained with."""

    k: int
    """Active features a row, on average over a batch and, once served, over held-out tokens."""
    widths: tuple[int, ...]
    """Widths of the prefixes that rebuild x alone, ascending; the whole dictionary always does too."""
    auxk_alpha: float = 1 / 32
    """Coefficient of the auxiliary loss that revives dead features; 0 turns it off."""
