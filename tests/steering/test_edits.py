"""The affine form of each operation, first by hand, then against the SAE's own encode and decode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steerd.sae.activation_function import JumpReLU, ReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.apply import edit_deltas, read_columns
from steerd.steering.intervention import Ablate, Add, Operation, Scale, Set, gain_and_bias
from tests.tiny_saes import random_sae

# x = (3, 1) reads z = 2 * 3 + 1 * 1 - 1 = 6; its direction is (0, 10).
X = torch.tensor([[3.0, 1.0]])
ENCODER, B_ENC, THRESHOLD = torch.tensor([[2.0, 1.0]]), torch.tensor([-1.0]), torch.tensor([0.0])
DIRECTION = torch.tensor([[0.0, 10.0]])


def edited(
    x: Tensor, acts: Tensor, directions: Tensor, operation: Operation, row: int, column: int
) -> Tensor:
    gain, bias = gain_and_bias(operation)
    index = torch.tensor([row]), torch.tensor([column])
    scalars = torch.tensor([gain], dtype=x.dtype), torch.tensor([bias], dtype=x.dtype)
    return x.index_add(0, index[0], edit_deltas(acts, directions, *index, *scalars))


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Add(0.5), [3.0, 6.0]),
        (Add(-2.0), [3.0, -19.0]),
        (Set(7.0), [3.0, 11.0]),
        (Set(0.0), [3.0, -59.0]),
        (Scale(1.5), [3.0, 31.0]),
        (Scale(1.0), [3.0, 1.0]),
        (Scale(0.0), [3.0, -59.0]),
        (Ablate(), [3.0, -59.0]),
    ],
    ids=str,
)
def test_operation_by_hand(operation: Operation, expected: list[float]) -> None:
    acts = read_columns(X, ENCODER, B_ENC, THRESHOLD)

    assert acts.tolist() == [[6.0]]
    assert edited(X, acts, DIRECTION, operation, row=0, column=0).tolist() == [expected]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [(Add(0.5), 5.0), (Set(7.0), 70.0), (Scale(3.0), 0.0), (Ablate(), 0.0)],
    ids=str,
)
def test_operation_on_an_inactive_feature_by_hand(operation: Operation, expected: float) -> None:
    x = torch.zeros(1, 2)
    acts = read_columns(x, ENCODER, B_ENC, THRESHOLD)  # the pre-activation is -1

    assert acts.tolist() == [[0.0]]
    assert edited(x, acts, DIRECTION, operation, row=0, column=0).tolist() == [[0.0, expected]]


def test_a_feature_at_its_threshold_is_inactive() -> None:
    threshold = torch.tensor([6.0])

    assert read_columns(X, ENCODER, B_ENC, threshold).tolist() == [[0.0]]
    assert read_columns(X, ENCODER, B_ENC, threshold - 0.5).tolist() == [[6.0]]


def test_edits_of_one_row_add_up_and_are_computed_from_the_same_row() -> None:
    acts = torch.tensor([[2.0, 5.0], [0.0, 1.0]])
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    rows, columns = torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1])

    deltas = edit_deltas(
        acts, directions, rows, columns, torch.tensor([0.0, 0.0, -1.0]), torch.tensor([1.0, 3.0, 4.0])
    )
    x = torch.zeros(2, 2).index_add(0, rows, deltas)

    assert x.tolist() == [[4.0, -1.0], [0.0, 0.0]]


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_ablation_is_decoding_without_the_feature_plus_the_error_term(architecture: str) -> None:
    sae = random_sae(seed=3, architecture=architecture, dtype=torch.float64)
    x = torch.randn(40, sae.d_model, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    feature_acts = sae.encode(x)
    error = x - sae.decode(feature_acts)
    checked = 0
    for feature in range(sae.d_sae):
        for row in feature_acts[:, feature].nonzero().flatten().tolist()[:2]:
            without = feature_acts[row].clone()
            without[feature] = 0

            ablated = edited(x, feature_acts, sae.W_dec, Ablate(), row, feature)

            torch.testing.assert_close(ablated[row], sae.decode(without) + error[row], atol=1e-12, rtol=0)
            checked += 1
    assert checked > sae.d_sae


@pytest.mark.parametrize("operation", [Add(1.5), Set(0.7), Scale(-2.0)], ids=str)
def test_operation_is_decoding_the_changed_activation_plus_the_error_term(operation: Operation) -> None:
    sae = random_sae(seed=5, dtype=torch.float64)
    x = torch.randn(8, sae.d_model, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    feature_acts = sae.encode(x)
    error = x - sae.decode(feature_acts)
    wanted = {
        "Add": feature_acts[:, 9] + 1.5,
        "Set": torch.full((8,), 0.7, dtype=torch.float64),
        "Scale": -2.0 * feature_acts[:, 9],
    }
    changed = feature_acts.clone()
    changed[:, 9] = wanted[type(operation).__name__]

    for row in range(8):
        got = edited(x, feature_acts, sae.W_dec, operation, row, 9)[row]

        torch.testing.assert_close(got, sae.decode(changed)[row] + error[row], atol=1e-12, rtol=0)


@pytest.mark.parametrize("threshold", [None, [0.5, 0.0, 2.0]], ids=["relu", "jumprelu"])
def test_columns_read_what_the_autoencoder_encodes(threshold: list[float] | None) -> None:
    generator = torch.Generator().manual_seed(7)
    W_enc = torch.randn(4, 3, generator=generator)
    activation = ReLU() if threshold is None else JumpReLU(torch.tensor(threshold))
    sae = SparseAutoencoder(W_enc, torch.tensor([0.1, -0.2, 0.3]), W_enc.T, torch.zeros(4), activation)
    x = torch.randn(50, 4, generator=generator)

    acts = read_columns(x, W_enc.T, sae.b_enc, torch.tensor(threshold or [0.0, 0.0, 0.0]))

    torch.testing.assert_close(acts, sae.encode(x), atol=1e-6, rtol=0)
    assert 0 < (acts > 0).float().mean() < 1
