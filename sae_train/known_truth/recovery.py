"""How much of a known truth an SAE has found.

The definitions are those of SynthSAEBench (arXiv 2602.14687), so that the figures compare with its tables.
"Nearest" is by the absolute cosine between decoder rows and true directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.evaluation.matching import best_matching
from sae_train.known_truth.truth import TrueRows
from steerd.sae.autoencoder import SparseAutoencoder

_EXACT = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The scores of one SAE."""

    mcc: float
    """Mean |cosine| over the one-to-one matching of features and true directions that makes it largest."""
    recovered: float
    """Share of the pairs of that matching with |cosine| >= 0.95."""
    f1: float
    """Mean over the SAE's features of the F1 score with which a feature's firing tells that of the nearest
    true feature; 0 for one that never fires with it, dead ones among them."""
    precision: float
    recall: float
    uniqueness: float
    """Number of true features that are nearest to some feature of the SAE, over d_sae."""
    variance_explained: float
    """1 - sum ||x - x_hat||^2 / sum ||x - mean x||^2."""
    l0: float
    true_l0: float
    dead: int
    """Features of the SAE that never fired."""


def recovery(sae: SparseAutoencoder, directions: Tensor, batches: Iterable[TrueRows]) -> Recovery:
    """Score an SAE, of any dtype, on batches of true rows; directions are [num_features, d_model]."""
    cosines = absolute_cosines(sae.W_dec, directions)  # [d_sae, num_features]
    nearest = cosines.argmax(dim=1)
    matched = best_matching(cosines)
    counts = _Counts(sae, nearest)
    for batch in batches:
        counts.add(batch)
    precision, recall, f1 = counts.detection()
    return Recovery(
        mcc=float(matched.mean()),
        recovered=float((matched >= _EXACT).double().mean()),
        f1=float(f1.mean()),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        uniqueness=len(torch.unique(nearest)) / sae.d_sae,
        variance_explained=counts.variance_explained(),
        l0=float(counts.fires.sum()) / counts.rows,
        true_l0=counts.true_active / counts.rows,
        dead=int((counts.fires == 0).sum()),
    )


def absolute_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return |cosine| of every row of a [n, d_model] with every row of b [m, d_model], float64 [n, m].

    A row of zeros has no direction: its cosines are 0.
    """
    return (_unit(a) @ _unit(b).t()).abs()


def _unit(rows: Tensor) -> Tensor:
    rows = rows.double()
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / norms.masked_fill(norms == 0, 1.0)


class _Counts:
    """Sums over batches, from which the scores that need samples are made."""

    def __init__(self, sae: SparseAutoencoder, nearest: Tensor) -> None:
        zeros = torch.zeros(sae.d_sae, dtype=torch.float64, device=nearest.device)
        self._sae = sae
        self._nearest = nearest
        self._both = zeros.clone()
        self._truth_fires = zeros.clone()
        self.fires = zeros.clone()
        self.rows = 0
        self.true_active = 0
        self._error = 0.0
        self._squares = 0.0
        self._sum = torch.zeros(sae.d_model, dtype=torch.float64, device=nearest.device)

    def add(self, batch: TrueRows) -> None:
        """Take in a batch."""
        feature_acts = self._sae.encode(batch.resid)
        fires, truth = feature_acts > 0, batch.feature_acts > 0
        truth_of_nearest = truth[:, self._nearest]  # [rows, d_sae]
        self._both += (fires & truth_of_nearest).sum(dim=0)
        self._truth_fires += truth_of_nearest.sum(dim=0)
        self.fires += fires.sum(dim=0)
        self.rows += len(fires)
        self.true_active += int(truth.sum())
        error = batch.resid - self._sae.decode(feature_acts)
        self._error += float(error.double().square().sum())
        self._squares += float(batch.resid.double().square().sum())
        self._sum += batch.resid.double().sum(dim=0)

    def detection(self) -> tuple[Tensor, Tensor, Tensor]:
        """Precision, recall and F1 of every feature, each [d_sae], 0 where there is nothing to divide by."""
        precision = self._both / self.fires.clamp(min=1)
        recall = self._both / self._truth_fires.clamp(min=1)
        return precision, recall, 2 * self._both / (self.fires + self._truth_fires).clamp(min=1)

    def variance_explained(self) -> float:
        """The share of the variance about the mean over all rows."""
        variance = self._squares - float(self._sum.square().sum()) / self.rows
        return 1 - self._error / variance
