from __future__ import annotations

import json
import math

import pytest
import torch

from sae_train.evaluation import evaluation
from sae_train.evaluation.calibration import calibrate
from sae_train.evaluation.cross_entropy import Splice
from sae_train.evaluation.evaluation import evaluate_sae
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from tests.sae_train.evaluation.hand_made import cut, perfect_sae, rows_of, sae_of, text_blocks
from tests.tiny_saes import random_sae


def test_the_record_is_json_with_six_digits_and_nulls(tiny_host: HostModel) -> None:
    rows = rows_of(torch.randn(600, 32, generator=torch.Generator().manual_seed(0)))  # no special token
    sae = random_sae(32)
    splice = Splice(
        host=tiny_host,
        hook_point=HookPoint(layer=1, site="resid_post"),
        blocks=text_blocks(),
        outlier_limit=1e9,
        batch_tokens=100,
    )
    calibration = calibrate(sae, lambda: [rows.resid], k=4)

    record = evaluate_sae(sae, lambda: cut(rows, 100), splice=splice, calibration=calibration).as_json()

    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["mse_special_tokens"] is None
    assert record["mse_special_tokens_ln"] is None
    assert record["mse_ln"] == pytest.approx(math.log(record["mse"]), rel=1e-4)
    assert all(
        len(f"{v:g}") <= 13 and float(f"{v:.6g}") == v for v in record.values() if isinstance(v, float)
    )
    assert record["calibration_l0_seen"] == pytest.approx(4.0)
    assert sum(record["density_log10_counts"]) + record["features_dead"] == 64
    assert record["cross_entropy_tokens"] == record["kl_positions"] - 3


def test_every_name_of_the_record_is_in_the_table(tiny_host: HostModel) -> None:
    rows = rows_of(torch.randn(600, 32, generator=torch.Generator().manual_seed(0)), {3: 1})
    splice = Splice(
        host=tiny_host,
        hook_point=HookPoint(layer=0, site="resid_post"),
        blocks=text_blocks(),
        outlier_limit=1e9,
        batch_tokens=100,
    )
    sae = random_sae(32)
    calibration = calibrate(sae, lambda: [rows.resid], k=4)

    record = evaluate_sae(sae, lambda: [rows], splice=splice, calibration=calibration).as_json()

    assert set(record) == _table_names()


def _table_names() -> set[str]:
    """What stands in the first column of the docstring's table."""
    lines = [line for line in (evaluation.__doc__ or "").splitlines() if line.startswith("| ")]
    return {name for line in lines[1:] for name in line.split("|")[1].strip().split(", ")}


def test_without_a_host_the_losses_are_left_out() -> None:
    rows = rows_of(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))

    record = evaluate_sae(perfect_sae(4), lambda: [rows]).as_json()

    assert not any(name.startswith(("cross_entropy", "kl", "calibration")) for name in record)
    assert record["variance_explained"] == 1.0
    assert record["warnings"] == []


def test_special_tokens_stand_by_id() -> None:
    rows = rows_of([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], {1: 2})

    record = evaluate_sae(perfect_sae(2), lambda: [rows]).as_json()

    assert record["special_tokens_by_id"] == {"2": {"count": 1, "mse": 0.0, "l0": 1.0}}


def test_an_sae_worse_than_the_mean_row_is_warned_of() -> None:
    rows = rows_of(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))

    (warning,) = evaluate_sae(perfect_sae(4, shrunk_to=-1.0), lambda: [rows]).warnings

    assert warning.startswith("variance_explained is -")
    assert warning.endswith("the SAE does not fit these activations: wrong hook point or host?")


def test_an_sae_that_never_fires_is_warned_of() -> None:
    rows = rows_of(-torch.rand(20, 2, generator=torch.Generator().manual_seed(0)))

    evaluated = evaluate_sae(sae_of(torch.eye(2), torch.eye(2)), lambda: [rows])

    assert any(w.startswith("no feature fired on any of 20 tokens") for w in evaluated.as_json()["warnings"])
