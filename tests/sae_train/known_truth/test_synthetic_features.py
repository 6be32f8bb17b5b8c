"""The generator's rows against what its settings promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sae_train.known_truth.directions import spread_apart, unit_directions
from sae_train.known_truth.synthetic_features import SyntheticFeatures, SyntheticSettings, zipf_probabilities
from sae_train.known_truth.toy_superposition import ToySettings, ToySuperposition
from sae_train.known_truth.truth import KnownTruth, scored_rows, training_rows

SETTINGS = SyntheticSettings(num_features=60, d_model=16, roots=4, branching=2, depth=2)
TREELESS = replace(SETTINGS, roots=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("truth", [SyntheticFeatures(SETTINGS), ToySuperposition(ToySettings())])
def test_rows_are_their_true_features_times_the_directions(truth: KnownTruth) -> None:
    resid, feature_acts = truth.sample(300, generator())

    bias = truth.bias if isinstance(truth, SyntheticFeatures) else 0.0
    torch.testing.assert_close(resid, feature_acts @ truth.directions + bias)
    assert (feature_acts >= 0).all()
    torch.testing.assert_close(truth.directions.norm(dim=1), torch.ones(len(truth.directions)))


def test_a_row_in_which_nothing_fires_is_the_bias() -> None:
    silent = SyntheticFeatures(replace(TREELESS, largest_probability=1e-9, smallest_probability=1e-10))

    resid, feature_acts = silent.sample(5, generator())

    assert not feature_acts.any()
    assert torch.equal(resid, silent.bias.expand(5, -1))


def test_settings_and_generator_decide_every_number() -> None:
    first = SyntheticFeatures(SETTINGS).sample(50, generator(1))
    again = SyntheticFeatures(SETTINGS).sample(50, generator(1))
    other_rows = SyntheticFeatures(SETTINGS).sample(50, generator(2))
    other_truth = SyntheticFeatures(replace(SETTINGS, seed=7)).sample(50, generator(1))

    assert torch.equal(first.resid, again.resid)
    assert not torch.equal(first.resid, other_rows.resid)
    assert not torch.equal(first.resid, other_truth.resid)


def test_training_rows_go_on_where_the_last_batch_ended() -> None:
    truth, source = SyntheticFeatures(SETTINGS), generator(4)
    stream = training_rows(truth, batch_size=8, seed=4)

    for _ in range(3):
        assert torch.equal(next(stream), truth.sample(8, source).resid)


def test_scored_rows_are_the_same_each_time() -> None:
    truth = SyntheticFeatures(SETTINGS)

    first, again = (torch.cat([b.resid for b in scored_rows(truth, batch_size=8)]) for _ in range(2))

    assert torch.equal(first, again)
    assert len(first) == 400


def test_probabilities_fall_from_bound_to_bound_as_zipf_says() -> None:
    probabilities = zipf_probabilities(SETTINGS)

    assert probabilities[0].item() == pytest.approx(0.4)
    assert probabilities[-1].item() == pytest.approx(5e-4)
    last = 60**-0.5
    expected = 5e-4 + (0.4 - 5e-4) * (4**-0.5 - last) / (1 - last)
    assert probabilities[3].item() == pytest.approx(expected)


def test_outside_the_trees_features_fire_with_their_probabilities() -> None:
    truth = SyntheticFeatures(TREELESS)

    fires = truth.sample(100_000, generator()).feature_acts > 0

    found, expected = fires.float().mean(dim=0), truth.probabilities
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1.5e-3)


def test_magnitudes_have_the_mean_of_their_rank() -> None:
    steady = replace(TREELESS, magnitude_spread=0.1, first_magnitude=5.0, last_magnitude=2.0)

    feature_acts = SyntheticFeatures(steady).sample(100_000, generator()).feature_acts

    means = feature_acts.sum(dim=0) / (feature_acts > 0).sum(dim=0)
    torch.testing.assert_close(means[:40], torch.linspace(5.0, 2.0, 60)[:40], rtol=0.03, atol=0.0)


def test_shared_causes_make_features_fire_together_or_apart() -> None:
    def largest_correlation(scale: float) -> float:
        settings = replace(TREELESS, correlation_scale=scale, correlation_rank=2)
        fires = SyntheticFeatures(settings).sample(50_000, generator()).feature_acts[:, :8] > 0
        return float((torch.corrcoef(fires.float().t()) - torch.eye(8)).abs().max())

    assert largest_correlation(0.0) < 0.03
    assert largest_correlation(0.6) > 0.15


def test_spreading_lowers_what_directions_share() -> None:
    start = unit_directions(60, 16, generator())

    moved = spread_apart(start, steps=50, learning_rate=1e-2)

    def overlap(directions: torch.Tensor) -> float:
        cosines = directions @ directions.t()
        return float(cosines.square().sum() - len(directions))

    torch.testing.assert_close(moved.norm(dim=1), torch.ones(60))
    assert overlap(moved) < 0.8 * overlap(start)
    assert overlap(moved) >= 60 * 60 / 16 - 60 - 1e-3  # no sixty directions in sixteen dimensions share less


def test_one_step_of_spreading_follows_the_gradient() -> None:
    start = unit_directions(10, 4, generator())
    leaf = start.clone().requires_grad_()
    unit = leaf / leaf.norm(dim=1, keepdim=True)
    (unit @ unit.t()).square().sum().backward()
    assert leaf.grad is not None

    moved = spread_apart(start, steps=1, learning_rate=1e-4)

    # Adam's first step is the learning rate against the gradient's sign.
    expected = start - 1e-4 * leaf.grad.sign()
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(moved, expected, atol=1e-7, rtol=0)


def test_toy_features_fire_alike_with_magnitudes_up_to_one() -> None:
    truth = ToySuperposition(ToySettings(probability=0.1))

    feature_acts = truth.sample(50_000, generator()).feature_acts

    torch.testing.assert_close(
        (feature_acts > 0).float().mean(dim=0), torch.full((128,), 0.1), atol=7e-3, rtol=0
    )
    assert feature_acts.max() < 1
    assert feature_acts[feature_acts > 0].mean().item() == pytest.approx(0.5, abs=0.01)
