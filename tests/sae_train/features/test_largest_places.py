from __future__ import annotations

import numpy as np
import pytest

from sae_train.features.largest_places import LargestPlaces
from sae_train.features.observed_rows import ActiveEntries
from tests.sae_train.features.observing import observe

FEATURES, COUNT = 7, 5


def random_entries(rows: int, seed: int) -> ActiveEntries:
    generator = np.random.default_rng(seed)
    none = np.zeros(rows, dtype=np.int64)
    return ActiveEntries(
        features=generator.integers(0, FEATURES, rows),
        values=generator.random(rows, dtype=np.float32),
        token_ids=none,
        sources=none,
        places=np.arange(rows) + 1000 * seed,
        sequences=generator.integers(0, 12, rows),
    )


@pytest.mark.parametrize("pending_limit", [0, 700, 1_000_000])
@pytest.mark.parametrize("one_a_sequence", [False, True])
def test_what_is_kept_is_what_sorting_everything_gives(
    one_a_sequence: bool, pending_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_train.features.largest_places._PENDING_LIMIT", pending_limit)
    batches = [random_entries(rows=200, seed=seed) for seed in range(10)]
    places = LargestPlaces(FEATURES, COUNT, one_a_sequence=one_a_sequence)
    for batch in batches:
        places.update(batch, batch.values)

    found = places.by_feature()

    rows = [row for b in batches for row in zip(b.features, b.values, b.places, b.sequences, strict=True)]
    rows.sort(key=lambda row: -row[1])
    for feature in range(FEATURES):
        mine = [row for row in rows if row[0] == feature]
        if one_a_sequence:
            mine = [row for i, row in enumerate(mine) if row[3] not in {other[3] for other in mine[:i]}]
        assert found[feature].places.tolist() == [row[2] for row in mine[:COUNT]]
        assert found[feature].values.tolist() == pytest.approx([row[1] for row in mine[:COUNT]])


def test_a_feature_with_few_active_rows_has_few_places() -> None:
    places = LargestPlaces(3, 2, one_a_sequence=False)
    observe([[0.0, 1.0, 5.0], [0.0, 0.0, 7.0], [0.0, 0.0, 6.0]], "abc", [0, 0, 0], places)

    assert [found.places.tolist() for found in places.by_feature()] == [[], [0], [1, 2]]


def test_random_keys_leave_a_fair_sample() -> None:
    rows, trials = 400, 60
    generator = np.random.default_rng(0)
    taken = np.zeros(rows)
    for _ in range(trials):
        places = LargestPlaces(1, 40, one_a_sequence=False)
        for start in range(0, rows, 50):
            one = np.arange(start, start + 50)
            entries = ActiveEntries(one * 0, (one + 1).astype(np.float32), one, one, one, one)
            places.update(entries, generator.random(50, dtype=np.float32))
        taken[places.by_feature()[0].places] += 1

    assert taken.sum() == 40 * trials
    # each half of the stream gives half of the sample: the standard deviation is about 24
    assert abs(taken[: rows // 2].sum() - taken[rows // 2 :].sum()) < 240
