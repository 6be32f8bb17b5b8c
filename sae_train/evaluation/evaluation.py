"""The evaluation of an SAE on held-out tokens, whole, and as the flat record that logs and files hold.

| name in the record | unit | meaning |
|---|---|---|
| tokens, special_tokens | tokens | held-out rows measured; special ones among them (chat markers, end of text) |
| l0_mean, l0_median, l0_p95 | features a token | active features |
| l0_special_tokens, l0_other_tokens | features a token | the mean, by kind of token |
| mse, mse_special_tokens, mse_other_tokens | residual units squared | mean (x - x_hat)^2 over tokens and dimensions |
| mse_ln, mse_special_tokens_ln | ln | natural logarithms of those, as FAST's tables are logarithms (arXiv 2506.07691) |
| variance_explained | share | 1 - sum error^2 / sum (distance to the mean)^2, over all tokens; what SAELens calls `explained_variance` |
| variance_explained_legacy | share | mean over tokens of 1 - error^2 / (distance to the mean)^2; `explained_variance_legacy` in SAELens |
| cosine | -1 to 1 | mean cosine of x and x_hat |
| relative_norm | ratio | mean length of x_hat over that of x |
| relative_reconstruction_bias | ratio | mean x_hat^2 / mean x . x_hat; below 1 is shrinkage |
| special_tokens_by_id | | token id -> count, mse, l0 |
| density_tokens | tokens | the first 100,000 at most, on which firing is counted |
| features_dead | features | active on none of them |
| features_ultra_rare, features_ultra_rare_below | features, share | not dead, but of a density below the second |
| features_dense | features | active on more than 10 % of them |
| density_log10_bin_edges, density_log10_counts | log10 share, features | histogram of densities, dead features left out |
| density_log10_p05, density_log10_p25, density_log10_p50, density_log10_p75, density_log10_p95 | log10 share | quantiles of the same |
| decoder_neighbour_cosine_mean, decoder_neighbour_cosine_p50, decoder_neighbour_cosine_p99 | -1 to 1 | of each feature's largest cosine with another's decoder row |
| decoder_neighbour_bin_edges, decoder_neighbour_counts | cosine, features | histogram of the same |
| cross_entropy_tokens | tokens | predicted tokens |
| cross_entropy_clean, cross_entropy_spliced, cross_entropy_zero_ablated, cross_entropy_mean_ablated | nats a token | next-token loss: plain host, SAE, zeros or the mean row in place |
| cross_entropy_recovered_from_zero, cross_entropy_recovered_from_mean | share | of what that ablation loses, kept by the SAE |
| kl_positions | positions | with a next-token distribution |
| kl_spliced, kl_zero_ablated, kl_mean_ablated | nats a token | KL of the variant's next-token distribution from the plain host's |
| calibration_threshold | residual units | the serving threshold found on held-out rows, where there was one to find |
| calibration_rows_seen, calibration_l0_seen | rows, features a token | where it was found, and the mean L0 it gives there |
| calibration_rows_unseen, calibration_l0_unseen | rows, features a token | the same rows in two halves, and their mean L0 where each has the threshold found on the other |
| calibration_l0_unseen_worse_half | features a token | of these halves, the mean L0 that is further from k |
| warnings | sentences | what makes the figures doubtful; empty as a rule |

Undefined values (a mean over no tokens) are null. Cross-entropy and KL are there where a host ran,
the calibration where a threshold was calibrated.
"""  # noqa: E501  # a table

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sae_train.activations.held_out import HeldOutRows
from sae_train.evaluation.calibration import Calibration
from sae_train.evaluation.cross_entropy import CrossEntropy, Splice, cross_entropy
from sae_train.evaluation.feature_density import FeatureDensity
from sae_train.evaluation.feature_geometry import DecoderNeighbours, decoder_neighbours
from sae_train.evaluation.reconstruction import Reconstruction, reconstruction
from sae_train.evaluation.row_moments import row_moments
from steerd.sae.autoencoder import SparseAutoencoder

_WRONG_PLACE = "the SAE does not fit these activations: wrong hook point or host?"

Record = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything measured of one SAE."""

    reconstruction: Reconstruction
    neighbours: DecoderNeighbours
    losses: CrossEntropy | None
    calibration: Calibration | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the figures doubtful, a sentence each."""
        found = self.reconstruction
        warnings = []
        if found.variance_explained < 0:
            explained = f"variance_explained is {found.variance_explained:.3g}"
            warnings.append(f"{explained}, worse than the mean row: {_WRONG_PLACE}")
        if found.l0_mean == 0:
            warnings.append(f"no feature fired on any of {found.tokens} tokens: {_WRONG_PLACE}")
        return tuple(warnings)

    def as_json(self) -> Record:
        """Return the flat record that this module's docstring describes; floats to six significant digits."""
        record = _reconstruction_record(self.reconstruction) | _neighbours_record(self.neighbours)
        if self.losses is not None:
            record |= _losses_record(self.losses)
        if self.calibration is not None:
            record |= _prefixed("calibration_", dataclasses.asdict(self.calibration))
        rounded: Record = _rounded(record | {"warnings": list(self.warnings)})
        return rounded


def evaluate_sae(
    sae: SparseAutoencoder,
    rows: Callable[[], Iterable[HeldOutRows]],
    *,
    splice: Splice | None = None,
    calibration: Calibration | None = None,
) -> Evaluation:
    """Measure an SAE in its served form; `rows()` gives the same held-out rows each time.

    Without a `splice` no host runs. `calibration` is recorded along with the measurements.
    """
    moments = row_moments(rows())
    return Evaluation(
        reconstruction=reconstruction(sae, rows(), moments),
        neighbours=decoder_neighbours(sae.W_dec),
        losses=None if splice is None else cross_entropy(sae, splice, moments.mean),
        calibration=calibration,
    )


def _reconstruction_record(found: Reconstruction) -> Record:
    record = dataclasses.asdict(found)
    del record["density"]
    record["mse_ln"] = _ln(found.mse)
    record["mse_special_tokens_ln"] = _ln(found.mse_special_tokens)
    by_id = record.pop("special_tokens_by_id")
    return (
        record
        | {"special_tokens_by_id": {str(i): v for i, v in by_id.items()}}
        | _density_record(found.density)
    )


def _density_record(density: FeatureDensity) -> Record:
    return {
        "density_tokens": density.tokens,
        "features_dead": density.dead,
        "features_ultra_rare": density.ultra_rare,
        "features_ultra_rare_below": density.ultra_rare_below,
        "features_dense": density.dense,
        "density_log10_bin_edges": list(density.log10_bin_edges),
        "density_log10_counts": list(density.log10_counts),
        **{f"density_log10_p{p:02d}": value for p, value in density.log10_quantiles.items()},
    }


def _neighbours_record(neighbours: DecoderNeighbours) -> Record:
    return {
        "decoder_neighbour_cosine_mean": neighbours.mean,
        "decoder_neighbour_cosine_p50": neighbours.p50,
        "decoder_neighbour_cosine_p99": neighbours.p99,
        "decoder_neighbour_bin_edges": list(neighbours.bin_edges),
        "decoder_neighbour_counts": list(neighbours.counts),
    }


def _losses_record(losses: CrossEntropy) -> Record:
    values = dataclasses.asdict(losses)
    divergences = {name: value for name, value in values.items() if name.startswith("kl_")}
    return {
        **_prefixed("cross_entropy_", {n: values[n] for n in values if n not in (*divergences, "positions")}),
        "cross_entropy_recovered_from_zero": losses.recovered_from_zero,
        "cross_entropy_recovered_from_mean": losses.recovered_from_mean,
        "kl_positions": losses.positions,
        **divergences,
    }


def _prefixed(prefix: str, values: Record) -> Record:
    return {prefix + name: value for name, value in values.items()}


def _ln(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _rounded(value: Any) -> Any:  # Any: JSON values
    match value:
        case float():
            return float(f"{value:.6g}") if math.isfinite(value) else None
        case list():
            return [_rounded(item) for item in value]
        case dict():
            return {name: _rounded(item) for name, item in value.items()}
        case _:
            return value
