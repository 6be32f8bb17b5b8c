"""The form that all operations share, first by hand, then against the SAE's own encode and decode."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor

from steerd.sae.activation_function import JumpReLU, ReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.apply import add_directions, amounts, keep_lengths, read_columns, reconstruct_rows
from steerd.steering.edit_tables import EditTables
from steerd.steering.intervention import Ablate, Add, Limit, Operation, Scale, Set, affine
from tests.tiny_saes import random_sae

# x = (3, 1) reads z = 2 * 3 + 1 * 1 - 1 = 6; its direction is (0, 10).
X = torch.tensor([[3.0, 1.0]])
ENCODER, B_ENC, THRESHOLD = torch.tensor([[2.0, 1.0]]), torch.tensor([-1.0]), torch.tensor([0.0])
DIRECTION = torch.tensor([[0.0, 10.0]])


def edited(
    x: Tensor, acts: Tensor, directions: Tensor, *edits: tuple[int, int, Operation], factor: float = 1.0
) -> Tensor:
    """The rows with edits (row, column, operation), each by the factor."""
    tables = EditTables(torch.device("cpu"))
    tables.begin(len(x), range(acts.shape[1]))
    for row, column, operation in edits:
        tables.write(row, np.array([factor], dtype=np.float32), column, affine(operation))
    numbers, _ = tables.finish()
    return add_directions(x, amounts(acts, numbers), directions)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Add(0.5), 6.0),
        (Add(-2.0), -19.0),
        (Set(7.0), 11.0),
        (Set(7.0, only_if_active=True), 11.0),
        (Set(0.0), -59.0),
        (Scale(1.5), 31.0),
        (Scale(1.0), 1.0),
        (Scale(0.0), -59.0),
        (Ablate(), -59.0),
        (Limit(low=2.0), 1.0),
        (Limit(low=8.0), 21.0),
        (Limit(high=5.0), -9.0),
        (Limit(low=-1.0, high=4.5), -14.0),
        (Limit(low=7.0, high=7.0), 11.0),
    ],
    ids=str,
)
def test_operation_by_hand(operation: Operation, expected: float) -> None:
    acts = read_columns(X, ENCODER, B_ENC, THRESHOLD)

    assert acts.tolist() == [[6.0]]
    assert edited(X, acts, DIRECTION, (0, 0, operation)).tolist() == [[3.0, expected]]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Add(0.5), 5.0),
        (Set(7.0), 70.0),
        (Set(7.0, only_if_active=True), 0.0),
        (Scale(3.0), 0.0),
        (Ablate(), 0.0),
        (Limit(low=0.5), 5.0),
        (Limit(high=0.5), 0.0),
        (Limit(high=-0.5), -5.0),
    ],
    ids=str,
)
def test_operation_on_an_inactive_feature_by_hand(operation: Operation, expected: float) -> None:
    x = torch.zeros(1, 2)
    acts = read_columns(x, ENCODER, B_ENC, THRESHOLD)  # the pre-activation is -1

    assert acts.tolist() == [[0.0]]
    assert edited(x, acts, DIRECTION, (0, 0, operation)).tolist() == [[0.0, expected]]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Add(0.5), 3.5),
        (Set(7.0), 6.0),
        (Set(7.0, only_if_active=True), 6.0),
        (Scale(3.0), 61.0),
        (Ablate(), -29.0),
        (Limit(high=5.0), -4.0),
    ],
    ids=str,
)
def test_half_the_strength_is_half_of_what_is_added(operation: Operation, expected: float) -> None:
    acts = torch.tensor([[6.0]])

    assert edited(X, acts, DIRECTION, (0, 0, operation), factor=0.5).tolist() == [[3.0, expected]]


def test_a_feature_at_its_threshold_is_inactive() -> None:
    threshold = torch.tensor([6.0])

    assert read_columns(X, ENCODER, B_ENC, threshold).tolist() == [[0.0]]
    assert read_columns(X, ENCODER, B_ENC, threshold - 0.5).tolist() == [[6.0]]


def test_a_projection_may_be_negative() -> None:
    projection = read_columns(-X, ENCODER, torch.zeros(1), torch.tensor([-inf]))

    assert projection.tolist() == [[-7.0]]


def test_setting_where_active_leaves_a_negative_projection() -> None:
    x = torch.zeros(1, 2)

    assert edited(x, torch.tensor([[-3.0]]), DIRECTION, (0, 0, Set(7.0, only_if_active=True))).tolist() == [
        [0.0, 0.0]
    ]


def test_edits_of_one_row_add_up_and_are_computed_from_the_same_row() -> None:
    acts = torch.tensor([[2.0, 5.0], [0.0, 1.0]])
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    x = edited(torch.zeros(2, 2), acts, directions, (0, 0, Add(4.0)), (0, 1, Set(4.0)))

    assert x.tolist() == [[4.0, -1.0], [0.0, 0.0]]


def test_a_row_without_edits_is_bit_identical_whatever_its_neighbours_get() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 1e3 * torch.randn(64, 32, generator=generator)
    acts, directions = torch.randn(64, 40, generator=generator), torch.randn(40, 32, generator=generator)
    edits = [
        (row, row % 40, operation)
        for row in range(0, 64, 2)
        for operation in [[Add(1e5), Set(3.0, only_if_active=True), Limit(low=9.0)][row % 3]]
    ]

    got = edited(x, acts, directions, *edits)

    assert torch.equal(got[1::2], x[1::2])
    assert not torch.equal(got[0::2], x[0::2])


def test_tables_forget_the_step_before() -> None:
    tables, one = EditTables(torch.device("cpu")), np.ones(1, dtype=np.float32)
    for operation, column, rows in ((Limit(low=9.0), 3, 2), (Set(2.0, True), 1, 40), (Add(1.0), 0, 2)):
        tables.begin(rows, range(4))
        tables.write(1, one, column, affine(operation))
        tables.preserve(1, one > 0)
        numbers, preserve = tables.finish()
    acts = torch.ones(2, 4)

    assert amounts(acts, numbers).tolist() == [[0.0] * 4, [1.0, 0.0, 0.0, 0.0]]
    assert preserve is not None
    assert preserve.tolist() == [False, True]


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_ablation_is_decoding_without_the_feature_plus_the_error_term(architecture: str) -> None:
    sae = random_sae(seed=3, architecture=architecture)
    x = torch.randn(40, sae.d_model, generator=torch.Generator().manual_seed(4))
    feature_acts = sae.encode(x)
    error = x - sae.decode(feature_acts)
    checked = 0
    for feature in range(sae.d_sae):
        rows = feature_acts[:, feature].nonzero().flatten().tolist()[:2]
        ablated = edited(x, feature_acts, sae.W_dec, *((row, feature, Ablate()) for row in rows))
        for row in rows:
            without = feature_acts[row].clone()
            without[feature] = 0

            torch.testing.assert_close(ablated[row], sae.decode(without) + error[row], atol=1e-5, rtol=0)
            checked += 1
    assert checked > sae.d_sae


@pytest.mark.parametrize(
    ("operation", "wanted"),
    [
        (Add(1.5), lambda z: z + 1.5),
        (Set(0.7), lambda z: torch.full_like(z, 0.7)),
        (Set(0.7, only_if_active=True), lambda z: torch.where(z > 0, 0.7, z)),
        (Scale(-2.0), lambda z: -2.0 * z),
        (Limit(0.2, 0.5), lambda z: z.clamp(0.2, 0.5)),
    ],
    ids=str,
)
def test_operation_is_decoding_the_changed_activation_plus_the_error_term(
    operation: Operation, wanted: object
) -> None:
    sae = random_sae(seed=5)
    x = torch.randn(8, sae.d_model, generator=torch.Generator().manual_seed(6))
    feature_acts = sae.encode(x)
    error = x - sae.decode(feature_acts)
    changed = feature_acts.clone()
    changed[:, 9] = wanted(feature_acts[:, 9])  # type: ignore[operator]

    got = edited(x, feature_acts, sae.W_dec, *((row, 9, operation) for row in range(8)))

    torch.testing.assert_close(got, sae.decode(changed) + error, atol=1e-5, rtol=0)


def test_reconstruction_replaces_some_rows_by_their_decoding() -> None:
    sae = random_sae(seed=8)
    x = torch.randn(5, sae.d_model, generator=torch.Generator().manual_seed(9))
    decoded = sae.decode(sae.encode(x))

    got = reconstruct_rows(x, sae, torch.tensor([1, 4]), torch.tensor([1.0, 0.25]))

    assert torch.equal(got[[0, 2, 3]], x[[0, 2, 3]])
    torch.testing.assert_close(got[1], decoded[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(got[4], x[4] + 0.25 * (decoded[4] - x[4]), atol=1e-6, rtol=0)


def test_lengths_are_kept_where_asked_and_untouched_rows_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(10)
    x = torch.randn(4, 16, generator=generator)
    moved = torch.cat([x[:1], 3 * torch.randn(2, 16, generator=generator), torch.zeros(1, 16)])

    got = keep_lengths(moved, x, torch.tensor([True, True, False, True]))

    torch.testing.assert_close(got[1].norm(), x[1].norm(), atol=1e-5, rtol=0)
    assert torch.nn.functional.cosine_similarity(got[1], moved[1], dim=0) > 1 - 1e-6
    assert torch.equal(got[[0, 2, 3]], moved[[0, 2, 3]]), "unchanged, not asked for, nothing to scale"


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
