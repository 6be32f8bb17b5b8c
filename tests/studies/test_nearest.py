"""NearestFeatures' study, against the whole matrix of cosines."""

from __future__ import annotations

import pytest
import torch

from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.feature_matches import NearestWish, Side
from steerd.studies.nearest import Nearest
from tests.studies.run_study import run_study
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae


@pytest.fixture(scope="module")
def saes() -> LoadedSaes:
    host = make_tiny_host()
    loaded = LoadedSaes(host)
    for layer, name in enumerate(("first", "second", "third")):
        loaded.add(name, tiny_sae(host, f"blocks.{layer}.hook_resid_post", seed=layer, d_sae=20 + layer))
    return loaded


def all_cosines(
    saes: LoadedSaes, names: list[str], direction: torch.Tensor, side: Side
) -> dict[FeatureRef, float]:
    found = {}
    for name in names:
        sae = saes.get(name).sae
        rows = sae.W_dec if side == "decoder" else sae.W_enc.t()
        cosines = torch.nn.functional.cosine_similarity(rows.double(), direction.double().unsqueeze(0))
        found |= {FeatureRef(name, i): float(cosine) for i, cosine in enumerate(cosines)}
    return found


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_the_nearest_of_all_saes_come_first_without_the_feature_itself(saes: LoadedSaes, side: Side) -> None:
    feature = FeatureRef("second", 4)
    sae = saes.get("second").sae
    direction = sae.W_dec[4] if side == "decoder" else sae.W_enc[:, 4]
    expected = all_cosines(saes, ["first", "second"], direction, side)
    del expected[feature]

    found, told = run_study(Nearest(saes, NearestWish(feature, ("first", "second"), side, limit=30)))

    ranked = sorted(expected, key=lambda ref: -expected[ref])[:30]
    assert [match.feature for match in found.features] == ranked
    assert [match.match for match in found.features] == pytest.approx(
        [expected[ref] for ref in ranked], abs=1e-5
    )
    assert found.complete
    assert [(progress.done, progress.total) for progress in told] == [(20, 41), (41, 41)]


@pytest.mark.parametrize("length", [1e-30, 1.0, 1e30])
def test_a_direction_of_any_length_will_do(saes: LoadedSaes, length: float) -> None:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    names = ["third", "first"]
    expected = all_cosines(saes, names, direction, "decoder")

    wish = NearestWish(tuple((direction * length).tolist()), tuple(names), "decoder", limit=5)
    found, _ = run_study(Nearest(saes, wish))

    ranked = sorted(expected, key=lambda ref: -expected[ref])[:5]
    assert [match.feature for match in found.features] == ranked
    assert [match.match for match in found.features] == pytest.approx(
        [expected[ref] for ref in ranked], abs=1e-5
    )
    assert found.features[0].hook_point == str(saes.get(ranked[0].sae).hook_point)


def test_a_feature_of_an_sae_that_is_not_searched_has_neighbours_elsewhere(saes: LoadedSaes) -> None:
    found, _ = run_study(Nearest(saes, NearestWish(FeatureRef("first", 0), ("third",), "decoder", limit=3)))

    assert {match.feature.sae for match in found.features} == {"third"}


def test_what_was_stopped_tells_of_the_saes_so_far(saes: LoadedSaes) -> None:
    wish = NearestWish(FeatureRef("first", 0), ("second", "third"), "decoder", limit=3)

    found, _ = run_study(Nearest(saes, wish), slices=1)

    assert not found.complete
    assert {match.feature.sae for match in found.features} == {"second"}
