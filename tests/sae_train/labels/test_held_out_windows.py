"""Windows of held-out sequences, against all activations computed at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_train.activations.shard import open_shard
from sae_train.features.feature_contexts import CachedTexts, FeaturePlace, Window, read_contexts
from sae_train.labels.held_out_windows import WINDOW_TOKENS, held_out_source, held_out_windows
from tests.sae_train.features.small_cache import BLOCK, HOOK_POINT, SCALE, planted_sae, small_cache


def test_each_whole_window_has_the_largest_activations_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_train.labels.held_out_windows._ENTRIES_AT_ONCE", 7 * WINDOW_TOKENS * 33)
    sae, cache = planted_sae(), small_cache(tmp_path, split="held_out")
    heard: list[int] = []

    windows = held_out_windows(
        sae, held_out_source(cache, HOOK_POINT, SCALE, tokens=10**6), on_tokens=heard.append
    )

    expected_ids, expected_peaks = [], []
    for number in range(2):
        shard = open_shard(cache.shard_path("held_out", number))
        resid = torch.from_numpy(np.asarray(shard.resid(HOOK_POINT)).astype(np.float32))
        counts = (resid.norm(dim=1) <= SCALE.outlier_limit) & torch.from_numpy(shard.keep)
        acts = sae.encode(resid) * counts.unsqueeze(1)
        for start in range(0, len(resid), BLOCK):  # a sequence of 50 rows holds one window of 32
            expected_ids.append(shard.token_ids[start : start + WINDOW_TOKENS].tolist())
            expected_peaks.append(acts[start : start + WINDOW_TOKENS].amax(dim=0))
    peaks = torch.stack(expected_peaks)
    assert windows.token_ids.tolist() == expected_ids
    assert windows.sequences.tolist() == list(range(40))
    assert sum(heard) == len(windows) * WINDOW_TOKENS == 40 * WINDOW_TOKENS
    for feature in range(33):
        found = windows.active(feature)
        assert sorted(found.windows.tolist()) == peaks[:, feature].nonzero().flatten().tolist()
        assert found.peaks.tolist() == pytest.approx(
            peaks[found.windows.tolist(), feature].tolist(), rel=1e-4
        )
        assert (np.diff(found.peaks) <= 0).all()


def test_a_windows_place_finds_its_tokens_and_activations_again(tmp_path: Path) -> None:
    sae, cache = planted_sae(), small_cache(tmp_path, split="held_out")
    windows = held_out_windows(sae, held_out_source(cache, HOOK_POINT, SCALE, tokens=10**6))
    active = windows.active(3)
    asked = [FeaturePlace(3, int(windows.places[window])) for window in active.windows]

    contexts = read_contexts(sae, CachedTexts(windows.source), asked, Window(0, WINDOW_TOKENS - 1))

    assert [context.token_ids.tolist() for context in contexts] == windows.token_ids[active.windows].tolist()
    assert [context.values.max() for context in contexts] == pytest.approx(active.peaks.tolist(), rel=1e-4)


def test_windows_of_one_sequence_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_train.labels.held_out_windows.WINDOW_TOKENS", 20)
    cache = small_cache(tmp_path, split="held_out", rows=100)

    windows = held_out_windows(planted_sae(), held_out_source(cache, HOOK_POINT, SCALE, tokens=10**6))

    assert windows.sequences.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nothing_held_out_is_no_windows(tmp_path: Path) -> None:
    cache = small_cache(tmp_path)

    windows = held_out_windows(planted_sae(), held_out_source(cache, HOOK_POINT, SCALE, tokens=10**6))

    assert len(windows) == 0
    assert windows.active(0).windows.tolist() == []
