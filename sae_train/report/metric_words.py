"""What the names of an evaluation and of a run's log mean, in words for the page."""

from __future__ import annotations

from typing import NamedTuple

L0 = "l0_mean"
VARIANCE_EXPLAINED = "variance_explained"
CROSS_ENTROPY_RECOVERED = "cross_entropy_recovered_from_zero"
DEAD_FEATURES = "dead_features"


class Words(NamedTuple):
    """A number's title and what it says."""

    title: str
    meaning: str = ""


_HELD_OUT = {
    "tokens": Words("Held-out tokens", "From documents that were never trained on."),
    "special_tokens": Words("Special tokens", "How many of them are chat markers, end of text and the like."),
    L0: Words("L0", "Active features a token, mean."),
    "l0_median": Words("L0, median"),
    "l0_p95": Words("L0, 95th percentile"),
    "l0_special_tokens": Words("L0, special tokens", "Mean over these tokens alone."),
    "l0_other_tokens": Words("L0, other tokens", "Mean over these tokens alone."),
    "mse": Words("Mean squared error", "Over tokens and dimensions, in the host's units squared."),
    "mse_special_tokens": Words("Mean squared error, special tokens"),
    "mse_other_tokens": Words("Mean squared error, other tokens"),
    "mse_ln": Words("ln of the mean squared error", "FAST's tables are such logarithms."),
    "mse_special_tokens_ln": Words("ln of the mean squared error, special tokens"),
    VARIANCE_EXPLAINED: Words(
        "Variance explained", "1 - Σ‖x - x̂‖² / Σ‖x - mean x‖², both sums over all held-out tokens."
    ),
    "variance_explained_legacy": Words(
        "Variance explained, legacy form", "Mean over tokens of 1 - ‖x - x̂‖² / ‖x - mean x‖²."
    ),
    "cosine": Words("Cosine", "Mean cosine between an activation and its reconstruction."),
    "relative_norm": Words("Relative norm", "Mean of ‖x̂‖ / ‖x‖."),
    "relative_reconstruction_bias": Words(
        "Reconstruction bias", "Mean ‖x̂‖² / mean x · x̂; below 1 means that reconstructions shrink."
    ),
}

_FEATURES = {
    "density_tokens": Words("Tokens of the densities", "Held-out tokens on which firing was counted."),
    "features_dead": Words("Features without firing", "Active on none of these tokens."),
    "features_ultra_rare": Words("Ultra-rare features", "Not dead, but of a density below the next figure."),
    "features_ultra_rare_below": Words("Ultra-rare means below"),
    "features_dense": Words("Dense features", "Active on more than 10 % of these tokens."),
    **{
        f"density_log10_p{p}": Words(f"log10 of density, {int(p)} % quantile")
        for p in ("05", "25", "50", "75", "95")
    },
    "density_log10_bin_edges": Words("Histogram of densities: edges"),
    "density_log10_counts": Words("Histogram of densities: features"),
    "decoder_neighbour_cosine_mean": Words(
        "Nearest decoder direction, mean cosine", "High where features have split or come twice."
    ),
    "decoder_neighbour_cosine_p50": Words("Nearest decoder direction, median cosine"),
    "decoder_neighbour_cosine_p99": Words("Nearest decoder direction, 99th percentile"),
    "decoder_neighbour_bin_edges": Words("Histogram of those cosines: edges"),
    "decoder_neighbour_counts": Words("Histogram of those cosines: features"),
    DEAD_FEATURES: Words("Dead features", "Never active over the rows that the feature table is made from."),
    "weights_dtype": Words("Stored weights", "Every figure is of the weights as they are stored."),
    "special_tokens_by_id": Words("Special tokens, one by one"),
}

_HOST = {
    "cross_entropy_tokens": Words("Predicted tokens", "Of the cross-entropies."),
    "cross_entropy_clean": Words("Cross-entropy of the host", "Next-token loss in nats a token."),
    "cross_entropy_spliced": Words(
        "Cross-entropy, SAE in place", "The same with each activation replaced by its reconstruction."
    ),
    "cross_entropy_zero_ablated": Words("Cross-entropy, zeros in place"),
    "cross_entropy_mean_ablated": Words("Cross-entropy, mean activation in place"),
    CROSS_ENTROPY_RECOVERED: Words(
        "Cross-entropy recovered", "Share of the loss by zero-ablation that the SAE avoids."
    ),
    "cross_entropy_recovered_from_mean": Words(
        "Cross-entropy recovered, from the mean", "The same against mean-ablation, a harder baseline."
    ),
    "kl_positions": Words("Positions of the divergences"),
    "kl_spliced": Words("KL, SAE in place", "Of next-token distributions from the host's, nats a token."),
    "kl_zero_ablated": Words("KL, zeros in place"),
    "kl_mean_ablated": Words("KL, mean activation in place"),
    "calibration_threshold": Words("Serving threshold", "Found on held-out tokens so that mean L0 is k."),
    "calibration_rows_seen": Words("Tokens that it was found on"),
    "calibration_l0_seen": Words("L0 there"),
    "calibration_rows_unseen": Words("Tokens checked in two halves"),
    "calibration_l0_unseen": Words("L0 there", "Each half with the threshold found on the other one."),
    "calibration_l0_unseen_worse_half": Words("L0 of the half further from k"),
    "warnings": Words("Warnings"),
}

_TRAINING = {
    "loss": Words("Loss"),
    "l0": Words("L0"),
    "auxk": Words("Auxiliary loss of dead features"),
    "l1": Words("L1 penalty"),
    "gate_mse": Words("Error of the gates' reconstruction"),
    "sparsity": Words("Sparsity loss"),
    "dead_share": Words("Dead features, share"),
    "learning_rate": Words("Learning rate"),
}

WORDS = _HELD_OUT | _FEATURES | _HOST | _TRAINING


def words_for(name: str) -> Words:
    """Return a title and a meaning for a number's name; unknown names speak for themselves."""
    return WORDS.get(name, Words(name.replace("_", " ").capitalize()))
