from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_train.features.feature_pages import WINDOW, feature_pages
from sae_train.features.observed_rows import RowSource, observed_rows
from steerd.host.host_model import HostModel
from tests.sae_train.features.small_cache import (
    HOOK_POINT,
    SCALE,
    planted_sae,
    small_cache,
)
from tests.tiny_hosts import make_tiny_host


@pytest.fixture(scope="module")
def host() -> HostModel:
    """A host as wide as the planted rows."""
    return make_tiny_host(hidden_size=24, head_dim=6)


def test_statistics_and_examples_are_those_of_all_rows_at_once(tmp_path: Path, host: HostModel) -> None:
    sae, cache = planted_sae(), small_cache(tmp_path)
    heard: list[int] = []

    statistics, notes = feature_pages(
        sae, host, cache, HOOK_POINT, SCALE, tokens=10**6, on_tokens=heard.append
    )

    source = RowSource.of_cache(cache, HOOK_POINT, SCALE, tokens=10**6)
    acts = torch.cat([sae.encode(resid) for resid, _ in observed_rows(source, source.source_names())])
    active = (acts > 0).sum(dim=0)
    torch.testing.assert_close(statistics.max_activation, acts.amax(dim=0))
    torch.testing.assert_close(statistics.density, active / len(acts))
    torch.testing.assert_close(statistics.mean_activation, acts.sum(dim=0) / active.clamp(min=1))
    assert sum(heard) == len(acts)
    assert statistics.dead.tolist() == [False] * 32 + [True]
    assert notes[32].label == "dead"
    assert not notes[32].examples
    for feature, note in enumerate(notes[:32]):
        strongest = [max(example.values) for example in note.examples]
        assert strongest[0] == pytest.approx(float(statistics.max_activation[feature]), rel=1e-2)
        assert len(strongest) == 2
        assert all(len(example.tokens) <= WINDOW.before + 1 + WINDOW.after for example in note.examples)
        assert len(note.promoted_tokens) == 8
        assert [example.percentile for example in note.sampled] == pytest.approx([75, 25], abs=2)
        middle = acts[acts[:, feature] > 0, feature].median()
        assert max(note.sampled[0].values) >= 0.7 * middle
