from __future__ import annotations

import pytest
import torch

from steerd.sae.nearest_features import nearest_features, nearest_to


def test_neighbours_are_those_of_the_whole_cosine_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerd.sae.nearest_features._FEATURES_AT_ONCE", 7)
    W_dec = 3 * torch.randn(40, 16, generator=torch.Generator().manual_seed(0))

    found = nearest_features(W_dec, count=5, features=30)

    unit = W_dec.double() / W_dec.double().norm(dim=1, keepdim=True)
    expected = (unit @ unit.t()).fill_diagonal_(-2).topk(5, dim=1)
    assert found.features.tolist() == expected.indices[:30].tolist()
    torch.testing.assert_close(found.cosines.double(), expected.values[:30], rtol=0, atol=1e-5)


def test_a_feature_is_never_its_own_neighbour_and_zero_directions_do_no_harm() -> None:
    W_dec = torch.zeros(3, 4)
    W_dec[0, 0] = 1

    found = nearest_features(W_dec, count=8)

    assert found.features.shape == (3, 2)
    for feature, others in enumerate(found.features.tolist()):
        assert feature not in others
    assert found.cosines.tolist() == [[0.0, 0.0]] * 3


def test_the_nearest_to_a_direction_are_those_of_largest_cosine() -> None:
    generator = torch.Generator().manual_seed(1)
    dictionary, direction = torch.randn(30, 8, generator=generator), torch.randn(8, generator=generator)
    dictionary[4] = 0

    found = nearest_to(5 * direction, dictionary, count=40)

    cosines = torch.nn.functional.cosine_similarity(dictionary.double(), direction.double().unsqueeze(0))
    assert found.features.tolist() == cosines.argsort(descending=True).tolist()
    torch.testing.assert_close(found.cosines.double(), cosines.sort(descending=True).values)
