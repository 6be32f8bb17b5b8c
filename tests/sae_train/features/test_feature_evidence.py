from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_train.features.feature_contexts import Context
from sae_train.features.feature_evidence import (
    BINS,
    SAMPLED_CONTEXTS,
    TOP_CONTEXTS,
    Evidence,
    gather_evidence,
)
from sae_train.features.observed_rows import observed_rows
from sae_train.features.sampled_places import quantile_ranks
from tests.sae_train.features.small_cache import planted_sae, small_source

LISTED = 20


@pytest.fixture(scope="module")
def acts_and_evidence(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, Evidence]:
    """All activations at once, and what the pass gathered of the first features."""
    source, sae = small_source(tmp_path_factory.mktemp("cache")), planted_sae()
    acts = torch.cat([sae.encode(resid) for resid, _ in observed_rows(source, source.source_names())])
    evidence = gather_evidence(sae, source, acts.amax(dim=0), features=LISTED, on_tokens=lambda _: None)
    return acts, evidence


def peak(context: Context) -> float:
    return float(context.values[context.peak])


def test_histograms_count_every_active_row_once(acts_and_evidence: tuple[torch.Tensor, Evidence]) -> None:
    acts, evidence = acts_and_evidence

    assert evidence.rows == len(acts)
    assert evidence.histograms.shape == (LISTED, BINS)
    for feature in range(LISTED):
        values = acts[acts[:, feature] > 0, feature].numpy()
        expected, _ = np.histogram(values, bins=BINS, range=(0, float(values.max())))
        # a value on an edge may fall to either side
        assert np.abs(evidence.histograms[feature] - expected).sum() <= 2
        assert evidence.histograms[feature].sum() == len(values)


def test_top_contexts_are_the_strongest_in_order(acts_and_evidence: tuple[torch.Tensor, Evidence]) -> None:
    acts, evidence = acts_and_evidence

    for feature, contexts in enumerate(evidence.top):
        peaks = [peak(context) for context in contexts]
        assert peaks == sorted(peaks, reverse=True)
        assert len(peaks) == TOP_CONTEXTS
        assert peaks[0] == pytest.approx(float(acts[:, feature].max()), rel=1e-4)


def test_sampled_contexts_span_the_activations_as_their_percentiles_say(
    acts_and_evidence: tuple[torch.Tensor, Evidence],
) -> None:
    acts, evidence = acts_and_evidence

    errors = []
    for feature, sampled in enumerate(evidence.sampled):
        active = acts[acts[:, feature] > 0, feature]
        assert len(sampled) == SAMPLED_CONTEXTS
        assert [s.percentile for s in sampled] == sorted([s.percentile for s in sampled], reverse=True)
        for one in sampled:
            weaker = 100 * float((active < peak(one.context) - 1e-4).float().mean())
            errors.append(abs(weaker - one.percentile))
    assert np.mean(errors) < 8  # per cent; a sample of 64 places a quantile that well


def test_ranks_of_quantiles_are_evenly_spread() -> None:
    assert quantile_ranks(3, 8) == [0, 1, 2]
    assert quantile_ranks(80, 4) == [10, 30, 50, 70]
    assert quantile_ranks(0, 4) == []
