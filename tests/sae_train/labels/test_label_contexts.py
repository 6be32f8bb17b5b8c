"""Contexts drawn for labels, against all windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_train.labels.held_out_windows import HeldOutWindows, held_out_source, held_out_windows
from sae_train.labels.label_contexts import TESTED, LabelContext, LabelContexts
from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts
from steerd.sae.autoencoder import SparseAutoencoder
from tests.sae_train.features.small_cache import HOOK_POINT, SCALE, planted_sae, small_cache

FEATURES = range(32)


def sparse_sae() -> SparseAutoencoder:
    """The planted SAE with features that are active in some windows only."""
    return replace(planted_sae(), b_enc=torch.full((33,), -12.0))


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> HeldOutWindows:
    cache = small_cache(tmp_path_factory.mktemp("cache"), rows=8000, split="held_out")
    return held_out_windows(sparse_sae(), held_out_source(cache, HOOK_POINT, SCALE, tokens=10**6))


@pytest.fixture(scope="module")
def contexts(windows: HeldOutWindows, tiny_host: HostModel) -> LabelContexts:
    return LabelContexts(sparse_sae(), windows, TokenTexts(tiny_host.tokenizer))


def window_of(context: LabelContext, windows: HeldOutWindows) -> int:
    ids = np.array([ord(token) for token in context.tokens])
    (found,) = np.flatnonzero((windows.token_ids == ids).all(axis=1))
    return int(found)


def test_half_of_the_tested_contexts_have_the_feature_active(
    contexts: LabelContexts, windows: HeldOutWindows
) -> None:
    counts = []
    for feature in FEATURES:
        active = set(windows.active(feature).windows.tolist())
        drawn = contexts.to_test_on(feature)
        places = [window_of(context, windows) for context in drawn]
        assert len(set(places)) == len(places)
        assert [context.is_active for context in drawn] == [place in active for place in places]
        told = sum(context.is_active for context in drawn)
        counts.append(told)
        assert told == min(TESTED, sum(windows.sequences[list(active)] % 2 == 1))
        assert len(drawn) - told <= told
    assert TESTED in counts


def test_each_tenth_of_the_order_is_drawn_from(contexts: LabelContexts, windows: HeldOutWindows) -> None:
    feature = max(FEATURES, key=lambda f: len(windows.active(f).windows))
    ranked = [w for w in windows.active(feature).windows.tolist() if windows.sequences[w] % 2 == 1]
    assert len(ranked) > 2 * TESTED

    drawn = [c for c in contexts.to_test_on(feature) if c.is_active]

    ranks = sorted(ranked.index(window_of(context, windows)) for context in drawn)
    tenths = np.array_split(np.arange(len(ranked)), 10)
    assert [sum(rank in tenth for rank in ranks) for tenth in tenths] == [TESTED // 10] * 10


def test_what_a_label_is_written_from_shares_no_sequence_with_its_test(
    contexts: LabelContexts, windows: HeldOutWindows
) -> None:
    for feature in FEATURES:
        writing, testing = (
            {int(windows.sequences[window_of(context, windows)]) for context in drawn}
            for drawn in (contexts.to_write_from(feature), contexts.to_test_on(feature))
        )
        assert writing
        assert testing
        assert not writing & testing


def test_a_label_is_written_from_strong_and_usual_contexts_and_a_few_without(
    contexts: LabelContexts, windows: HeldOutWindows
) -> None:
    feature = min(f for f in FEATURES if 60 < len(windows.active(f).windows) < len(windows) - 60)

    drawn = contexts.to_write_from(feature)

    assert [context.is_active for context in drawn] == [True] * 20 + [False] * 5
    peaks = [context.peak for context in drawn[:20]]
    assert peaks == sorted(peaks, reverse=True)
    found = windows.active(feature)
    here = found.peaks[windows.sequences[found.windows] % 2 == 0]
    assert peaks[:10] == pytest.approx(here[:10].tolist(), rel=1e-4)


def test_the_strongest_come_first_and_draws_are_the_same_each_time(
    contexts: LabelContexts, windows: HeldOutWindows
) -> None:
    peaks = [context.peak for context in contexts.strongest(3)]

    assert peaks == pytest.approx(windows.active(3).peaks[:5].tolist(), rel=1e-4)
    again = contexts.to_test_on(3)
    assert ["".join(c.tokens) for c in contexts.to_test_on(3)] == ["".join(c.tokens) for c in again]


def test_a_feature_that_is_never_active_has_no_contexts(contexts: LabelContexts) -> None:
    assert contexts.to_test_on(32) == []
    assert not any(context.is_active for context in contexts.to_write_from(32))
    assert contexts.strongest(32) == []
