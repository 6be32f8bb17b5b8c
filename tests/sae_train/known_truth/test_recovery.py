"""The scores: by eye on a truth that is found exactly, and against plain loops on one that is not."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from sae_train.known_truth.recovery import absolute_cosines, recovery
from sae_train.known_truth.truth import TrueRows
from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder

D_MODEL, D_SAE, NUM_FEATURES = 5, 4, 6


def sae_of(W_enc: Tensor, W_dec: Tensor, b_enc: Tensor | None = None) -> SparseAutoencoder:
    d_sae, d_model = W_dec.shape
    bias = torch.zeros(d_sae) if b_enc is None else b_enc
    return SparseAutoencoder(
        W_enc=W_enc, b_enc=bias, W_dec=W_dec, b_dec=torch.zeros(d_model), activation=ReLU()
    )


def random_case() -> tuple[SparseAutoencoder, Tensor, list[TrueRows]]:
    generator = torch.Generator().manual_seed(2)
    sae = sae_of(
        torch.randn(D_MODEL, D_SAE, generator=generator),
        torch.randn(D_SAE, D_MODEL, generator=generator),
        torch.tensor([0.1, -0.2, -100.0, 0.3]),  # the third never fires
    )
    directions = torch.randn(NUM_FEATURES, D_MODEL, generator=generator)
    acts = torch.rand(90, NUM_FEATURES, generator=generator) - 0.6
    rows = TrueRows(resid=torch.randn(90, D_MODEL, generator=generator), feature_acts=acts.relu())
    return sae, directions, [TrueRows(*(part[:50] for part in rows)), TrueRows(*(part[50:] for part in rows))]


def test_orthogonal_directions_found_exactly_have_full_marks() -> None:
    directions = torch.eye(D_MODEL)
    W_dec = torch.eye(D_MODEL)[[2, 0, 4, 1]]  # four of the five, in another order
    acts = (torch.rand(200, D_MODEL, generator=torch.Generator().manual_seed(0)) - 0.5).relu()

    scores = recovery(sae_of(W_dec.t(), W_dec), directions, [TrueRows(acts @ directions, acts)])

    assert scores.mcc == scores.recovered == scores.f1 == scores.precision == scores.recall == 1
    assert scores.uniqueness == 1
    assert scores.dead == 0
    assert scores.l0 == pytest.approx(float((acts[:, [2, 0, 4, 1]] > 0).sum() / 200))
    assert scores.true_l0 == pytest.approx(float((acts > 0).sum() / 200))


def test_a_direction_found_twice_is_unique_once() -> None:
    W_dec = torch.eye(D_MODEL)[[0, 0, 1]]
    acts = torch.ones(10, D_MODEL) * torch.linspace(1, 2, 10).unsqueeze(1)

    scores = recovery(sae_of(W_dec.t(), W_dec), torch.eye(D_MODEL), [TrueRows(acts, acts)])

    assert scores.uniqueness == pytest.approx(2 / 3)
    assert scores.mcc == pytest.approx(2 / 3)  # one of the twins is matched with a direction it lacks
    assert scores.recovered == pytest.approx(2 / 3)


def test_the_sign_of_a_direction_does_not_matter() -> None:
    W_dec = -torch.eye(D_MODEL)

    scores = recovery(
        sae_of(W_dec.t(), W_dec),
        torch.eye(D_MODEL),
        [TrueRows(torch.eye(D_MODEL), torch.ones(D_MODEL, D_MODEL))],
    )

    assert scores.mcc == 1
    assert scores.f1 == 0  # it never fires where the truth does
    assert scores.dead == D_MODEL


def test_directions_are_matched_as_the_best_of_all_orders_would() -> None:
    sae, directions, rows = random_case()
    cosines = absolute_cosines(sae.W_dec, directions)
    best = max(
        sum(float(cosines[i, order[i]]) for i in range(D_SAE))
        for order in permutations(range(NUM_FEATURES), D_SAE)
    )

    assert recovery(sae, directions, rows).mcc == pytest.approx(best / D_SAE)


def test_detection_is_what_counting_row_by_row_gives() -> None:
    sae, directions, batches = random_case()
    resid = torch.cat([batch.resid for batch in batches])
    truth = torch.cat([batch.feature_acts for batch in batches]) > 0
    fires = sae.encode(resid) > 0
    f1s, precisions, recalls = [], [], []
    for feature in range(D_SAE):
        cosines = [abs(float(torch.cosine_similarity(sae.W_dec[feature], d, dim=0))) for d in directions]
        nearest = cosines.index(max(cosines))
        pairs = list(zip(fires[:, feature].tolist(), truth[:, nearest].tolist(), strict=True))
        both, ours, theirs = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
        precision = both / (both + ours) if both + ours else 0.0
        recall = both / (both + theirs) if both + theirs else 0.0
        precisions.append(precision)
        recalls.append(recall)
        f1s.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)

    scores = recovery(sae, directions, batches)

    assert scores.precision == pytest.approx(sum(precisions) / D_SAE)
    assert scores.recall == pytest.approx(sum(recalls) / D_SAE)
    assert scores.f1 == pytest.approx(sum(f1s) / D_SAE)
    assert scores.dead == 1
    assert scores.l0 == pytest.approx(float(fires.sum()) / len(resid))


def test_variance_explained_is_about_the_mean_of_all_rows() -> None:
    sae, directions, batches = random_case()
    resid = torch.cat([batch.resid for batch in batches]).double()
    x_hat = sae.decode(sae.encode(resid.float())).double()
    expected = 1 - (resid - x_hat).square().sum() / (resid - resid.mean(dim=0)).square().sum()

    assert recovery(sae, directions, batches).variance_explained == pytest.approx(float(expected))


def test_a_zero_row_of_the_decoder_is_near_nothing() -> None:
    W_dec = torch.eye(D_MODEL)[:2].clone()
    W_dec[1] = 0

    scores = recovery(
        sae_of(W_dec.t(), W_dec),
        torch.eye(D_MODEL),
        [TrueRows(torch.eye(D_MODEL), torch.ones(D_MODEL, D_MODEL))],
    )

    assert scores.mcc == pytest.approx(0.5)
