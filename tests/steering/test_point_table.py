"""The table against a dict of counts, through random acquiring and releasing."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.config_file import Architecture
from steerd.steering.intervention import FeatureRef, unit_direction
from steerd.steering.point_table import INITIAL_CAPACITY, PointTable
from tests.tiny_saes import random_sae

D_SAE = 3 * INITIAL_CAPACITY  # the walk outgrows the first allocation


def empty_table() -> PointTable:
    return PointTable(16, torch.device("cpu"))


def ref(feature: int, sae: str = "sae") -> FeatureRef:
    return FeatureRef(sae, feature)


def rows(d_model: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(12, d_model, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
@pytest.mark.parametrize("seed", range(3))
def test_random_walk_against_a_dict(architecture: str, seed: int) -> None:
    sae = random_sae(d_sae=D_SAE, seed=seed, architecture=architecture)
    table, chance = empty_table(), random.Random(seed)
    uses: Counter[int] = Counter()
    columns: dict[int, int] = {}
    widest = 0
    for move in range(600):
        # First mostly growing, then mostly shrinking, so that columns are freed in the middle and at the end.
        if not uses or chance.random() < (0.75 if move < 350 else 0.3):
            feature = chance.randrange(D_SAE)
            column = table.acquire(ref(feature), sae)
            assert column == columns.setdefault(feature, column), "a feature in use keeps its column"
            uses[feature] += 1
        else:
            feature = chance.choice(list(uses.elements()))
            table.release(columns[feature])
            uses[feature] -= 1
            if not uses[feature]:
                del uses[feature], columns[feature]
        widest = max(widest, table.num_columns)
        assert len(set(columns.values())) == len(columns), "columns are never shared"
        assert table.num_columns == max(columns.values(), default=-1) + 1
        if move % 20 == 0:
            check_reads(table, sae, columns)
    assert widest > INITIAL_CAPACITY
    for feature in list(uses.elements()):
        table.release(columns[feature])
    assert table.num_columns == 0


def check_reads(table: PointTable, sae: SparseAutoencoder, columns: dict[int, int]) -> None:
    x = rows(sae.d_model)
    features, used = list(columns), list(columns.values())

    acts = table.read(x)

    assert acts.shape == (len(x), table.num_columns)
    torch.testing.assert_close(acts[:, used], sae.feature_acts(x, features), atol=1e-5, rtol=0)
    assert torch.equal(table.directions[used], sae.W_dec[features])


def test_a_column_of_a_topk_sae_is_its_share_of_the_whole_encoding() -> None:
    sae = random_sae(architecture="topk", seed=1)
    table = empty_table()
    x = rows(sae.d_model)
    features = [5, 63, 0]
    columns = [table.acquire(ref(feature), sae) for feature in features]

    acts = table.read(x)

    assert torch.equal(acts[:, columns], sae.encode(x)[:, features])
    alone = torch.relu(x @ sae.W_enc + sae.b_enc)[:, features]
    assert not torch.equal(acts[:, columns], alone), "no feature was cut by the k largest"


def test_a_reused_column_forgets_the_feature_before_it() -> None:
    sae = random_sae(seed=2)
    table = empty_table()
    table.acquire(ref(1), sae)
    first = table.acquire(ref(2), sae)
    table.acquire(ref(3), sae)
    table.release(first)

    again = table.acquire(ref(40), sae)

    assert again == first
    check_reads(table, sae, {1: 0, 40: again, 3: 2})


def test_an_empty_table_reads_nothing() -> None:
    sae = random_sae()

    assert empty_table().read(rows(sae.d_model)).shape == (12, 0)


def test_a_direction_is_read_as_a_projection_and_added_as_itself() -> None:
    table = empty_table()
    values = torch.randn(16, generator=torch.Generator().manual_seed(1))
    direction = unit_direction("blocks.0.hook_resid_post", values.tolist())

    column = table.acquire(direction)
    acts = table.read(rows(16))

    unit = values / values.norm()
    torch.testing.assert_close(table.directions[column], unit, atol=1e-6, rtol=0)
    torch.testing.assert_close(acts[:, column], rows(16) @ unit, atol=1e-5, rtol=0)
    assert (acts < 0).any()


def test_saes_and_directions_of_a_point_stand_side_by_side() -> None:
    one, two = random_sae(seed=1), random_sae(seed=2, architecture="topk")
    table = empty_table()
    direction = unit_direction("blocks.0.hook_resid_post", [0.0] * 15 + [-2.0])

    columns = [table.acquire(ref(3, "one"), one), table.acquire(ref(3, "two"), two), table.acquire(direction)]
    x = rows(16)
    acts = table.read(x)

    assert len(set(columns)) == 3
    expected = torch.stack([one.encode(x)[:, 3], two.encode(x)[:, 3], -x[:, 15]], dim=1)
    torch.testing.assert_close(acts[:, columns], expected, atol=1e-5, rtol=0)


def test_copies_of_a_feature_have_columns_of_their_own() -> None:
    sae = random_sae()
    table = empty_table()
    first, second = table.acquire(ref(5), sae), table.acquire(ref(5), sae, copy=1)

    assert first != second
    table.release(first)
    x = rows(16)
    torch.testing.assert_close(table.read(x)[:, second], sae.encode(x)[:, 5], atol=1e-5, rtol=0)
    table.release(second)
    assert table.num_columns == 0


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_what_takes_the_place_of_an_sae_has_columns_of_its_own(architecture: str) -> None:
    """Under one name: who holds a column of the former keeps it, whoever comes gets the latter's."""
    former, latter = (random_sae(seed=seed, architecture=architecture) for seed in (1, 2))
    table, x = empty_table(), rows(16)
    held = table.acquire(ref(5), former)

    new = table.acquire(ref(5), latter)

    assert table.acquire(ref(5), former) == held
    both = torch.stack([former.encode(x)[:, 5], latter.encode(x)[:, 5]], dim=1)
    torch.testing.assert_close(table.read(x)[:, [held, new]], both, atol=1e-5, rtol=0)
    for _ in range(2):
        table.release(held)
    torch.testing.assert_close(table.read(x)[:, new], both[:, 1], atol=1e-5, rtol=0)
    table.release(new)
    assert table.num_columns == 0


def test_the_lengths_of_directions_stand_in_their_columns() -> None:
    sae = random_sae(d_sae=D_SAE)
    longer = replace(sae, W_dec=sae.W_dec * torch.arange(1, D_SAE + 1).unsqueeze(1))
    table = empty_table()

    columns = [table.acquire(ref(feature), longer) for feature in range(D_SAE)]
    along = table.acquire(unit_direction("blocks.1.hook_resid_post", [3.0] * 16))

    assert table.lengths[columns] == pytest.approx(np.arange(1, D_SAE + 1), rel=1e-5)
    assert table.lengths[along] == 1.0


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_what_cannot_be_filled_in_holds_no_column(architecture: Architecture) -> None:
    """Asked for again it fails again; who comes next reads right."""
    sae = random_sae(architecture=architecture)
    table = empty_table()
    kept = table.acquire(ref(4), sae)
    for _ in range(2):
        with pytest.raises(IndexError):
            table.acquire(ref(10**6), sae)
        assert table.num_columns == 1

    check_reads(table, sae, {4: kept, 5: table.acquire(ref(5), sae)})
    assert table.num_columns == 2


def test_a_table_that_cannot_grow_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = random_sae(d_sae=INITIAL_CAPACITY + 1)
    table = empty_table()
    columns = {feature: table.acquire(ref(feature), sae) for feature in range(INITIAL_CAPACITY)}
    calls, zeros = count(), torch.zeros

    def out_of_memory(*size: Any, **options: Any) -> torch.Tensor:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("no room")
        return zeros(*size, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            table.acquire(ref(INITIAL_CAPACITY), sae)
    check_reads(table, sae, columns)

    columns[INITIAL_CAPACITY] = table.acquire(ref(INITIAL_CAPACITY), sae)
    check_reads(table, sae, columns)
