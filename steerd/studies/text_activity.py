"""What features did in many texts, kept only where they fired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerd.sae.autoencoder import SparseAutoencoder

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_VALUES_AT_ONCE = 1 << 22  # activations of a whole dictionary, 16 MiB


@dataclass(frozen=True, slots=True, eq=False)
class TextActivity:
    """One entry for each text and feature that fired in it, each array [entries].

    `peak` is its largest activation there, `mean` that over all tokens that count, and `fired` on how many of
    these it was active.
    """

    text: Ints
    feature: Ints
    peak: Floats
    mean: Floats
    fired: Ints

    def where(self, chosen: Bools) -> TextActivity:
        """The chosen entries, [entries]."""
        return TextActivity(
            text=self.text[chosen],
            feature=self.feature[chosen],
            peak=self.peak[chosen],
            mean=self.mean[chosen],
            fired=self.fired[chosen],
        )


def text_activity(text: int, x: Tensor, sae: SparseAutoencoder, first_feature: int) -> TextActivity:
    """What the SAE's features did on the rows x [tokens, d_model] of a text, at least one.

    They are numbered from `first_feature` on.
    """
    peak, total = x.new_zeros(sae.d_sae), x.new_zeros(sae.d_sae)
    fired = torch.zeros(sae.d_sae, dtype=torch.long, device=x.device)
    for rows in torch.split(x, max(_VALUES_AT_ONCE // sae.d_sae, 1)):
        feature_acts = sae.encode(rows)  # [rows, d_sae]
        peak = torch.maximum(peak, feature_acts.amax(dim=0))
        total += feature_acts.sum(dim=0)
        fired += (feature_acts > 0).sum(dim=0)
    feature = peak.nonzero()[:, 0]
    return TextActivity(
        text=np.full(len(feature), text),
        feature=feature.cpu().numpy() + first_feature,
        peak=peak[feature].double().cpu().numpy(),
        mean=(total[feature] / len(x)).double().cpu().numpy(),
        fired=fired[feature].cpu().numpy(),
    )


def joined(parts: list[TextActivity]) -> TextActivity:
    """All entries; none of no parts."""
    empty = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
    none = TextActivity(empty[0], empty[0], empty[1], empty[1], empty[0])
    whole = [none, *parts]
    return TextActivity(
        text=np.concatenate([part.text for part in whole]),
        feature=np.concatenate([part.feature for part in whole]),
        peak=np.concatenate([part.peak for part in whole]),
        mean=np.concatenate([part.mean for part in whole]),
        fired=np.concatenate([part.fired for part in whole]),
    )
