"""The table against a dict of counts, through random acquiring and releasing."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from steerd.steering.feature_table import INITIAL_CAPACITY, FeatureTable
from tests.tiny_saes import random_sae

D_SAE = 3 * INITIAL_CAPACITY  # the walk outgrows the first allocation


def rows(d_model: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(12, d_model, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
@pytest.mark.parametrize("seed", range(3))
def test_random_walk_against_a_dict(architecture: str, seed: int) -> None:
    sae = random_sae(d_sae=D_SAE, seed=seed, architecture=architecture)
    table, chance = FeatureTable(sae), random.Random(seed)
    uses: Counter[int] = Counter()
    columns: dict[int, int] = {}
    widest = 0
    for move in range(600):
        # First mostly growing, then mostly shrinking, so that columns are freed in the middle and at the end.
        if not uses or chance.random() < (0.75 if move < 350 else 0.3):
            feature = chance.randrange(D_SAE)
            column = table.acquire(feature)
            assert column == columns.setdefault(feature, column), "a feature in use keeps its column"
            uses[feature] += 1
        else:
            feature = chance.choice(list(uses.elements()))
            table.release(feature)
            uses[feature] -= 1
            if not uses[feature]:
                del uses[feature], columns[feature]
        widest = max(widest, table.num_columns)
        assert len(set(columns.values())) == len(columns), "columns are never shared"
        assert table.num_columns == max(columns.values(), default=-1) + 1
        if move % 20 == 0:
            check_reads(table, columns)
    assert widest > INITIAL_CAPACITY
    for feature in list(uses.elements()):
        table.release(feature)
    assert table.num_columns == 0


def check_reads(table: FeatureTable, columns: dict[int, int]) -> None:
    x = rows(table.sae.d_model)
    features, used = list(columns), list(columns.values())

    acts = table.read(x)

    assert acts.shape == (len(x), table.num_columns)
    torch.testing.assert_close(acts[:, used], table.sae.feature_acts(x, features), atol=1e-5, rtol=0)
    assert torch.equal(table.directions[used], table.sae.W_dec[features])


def test_a_column_of_a_topk_sae_is_its_share_of_the_whole_encoding() -> None:
    sae = random_sae(architecture="topk", seed=1)
    table = FeatureTable(sae)
    x = rows(sae.d_model)
    features = [5, 63, 0]
    columns = [table.acquire(feature) for feature in features]

    acts = table.read(x)

    assert torch.equal(acts[:, columns], sae.encode(x)[:, features])
    alone = torch.relu(x @ sae.W_enc + sae.b_enc)[:, features]
    assert not torch.equal(acts[:, columns], alone), "no feature was cut by the k largest"


def test_a_reused_column_forgets_the_feature_before_it() -> None:
    sae = random_sae(seed=2)
    table = FeatureTable(sae)
    table.acquire(1)
    first = table.acquire(2)
    table.acquire(3)
    table.release(2)

    again = table.acquire(40)

    assert again == first
    check_reads(table, {1: 0, 40: again, 3: 2})


def test_an_empty_table_reads_nothing() -> None:
    sae = random_sae()

    assert FeatureTable(sae).read(rows(sae.d_model)).shape == (12, 0)
