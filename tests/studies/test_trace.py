"""Traced features against the whole dictionary on rows of a plain forward under the naive hook."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import Ablate, Add
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.trace import Trace, TraceWish
from steerd.studies.trace_table import TraceTable
from tests.engine.requests import SHORT, edit
from tests.studies.steered import TOLERANCE, plain_rows, run, steered, steered_forward
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

POINTS = {
    "late": "blocks.2.hook_resid_post",
    "other": "blocks.0.hook_resid_post",
    "mlp": "blocks.1.hook_mlp_out",
    "early": "blocks.0.hook_resid_post",
}
POSITIONS = (0, 4, 10)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def host(request: pytest.FixtureRequest) -> HostModel:
    return make_tiny_host(request.param)


def served(host: HostModel) -> LoadedSaes:
    saes = LoadedSaes(host)
    for seed, (name, point) in enumerate(POINTS.items()):
        kind = "topk" if name == "other" else "jumprelu"
        saes.add(name, tiny_sae(host, point, seed=seed, activation=kind))  # type: ignore[arg-type]
    return saes


def trace(
    host: HostModel, saes: LoadedSaes, text: object, read: Sequence[str] = tuple(POINTS), **wanted: object
) -> TraceTable:
    wish = {"text": text, "plan_hash": "", "saes": tuple(read), "positions": POSITIONS, "top": 5}
    with steered_forward(host, saes) as forward:
        table = run(Trace(forward, host, saes, TraceWish(**(wish | wanted))))  # type: ignore[arg-type]
    assert isinstance(table, TraceTable)
    return table


def test_features_shares_and_errors_are_those_of_the_rows(host: HostModel) -> None:
    saes, text = served(host), steered(SHORT, edit("early", 3, Add(5.0)), edit("mlp", 4, Ablate()))
    before_edits = {
        "early": steered(SHORT),
        "other": steered(SHORT),
        "mlp": steered(SHORT, edit("early", 3, Add(5.0))),
        "late": text,
    }

    table = trace(host, saes, text)

    assert [(row.sae, row.position) for row in table.rows] == [
        (sae, position) for sae in ("other", "early", "mlp", "late") for position in POSITIONS
    ]
    for row in table.rows:
        loaded = saes.get(row.sae)
        x = plain_rows(host, saes, before_edits[row.sae], loaded.hook_point)[row.position]
        z = loaded.sae.encode(x)
        error = x - z @ loaded.sae.W_dec - loaded.sae.b_dec
        expected = z.sort(descending=True).values[:5]
        near = {"rel": 1e-3, "abs": TOLERANCE}
        assert row.hook_point == POINTS[row.sae]
        assert [each.activation for each in row.features] == pytest.approx(expected.tolist(), **near)
        assert [float(z[each.feature]) for each in row.features] == pytest.approx(expected.tolist(), **near)
        for each in row.features:
            part = z[each.feature] * loaded.sae.W_dec[each.feature]
            assert each.share == pytest.approx(float(part.norm() / x.norm()), **near)
            assert each.label == FeatureLabel(f"label of {each.feature}")
        assert row.resid_norm == pytest.approx(float(x.norm()), **near)
        assert row.error_norm == pytest.approx(float(error.norm()), **near)
        assert row.unexplained == pytest.approx(float(error.square().sum() / x.square().sum()), **near)
        assert row.active == int((z > 0).sum())


def test_after_the_edits_their_own_rows_are_read(tiny_host: HostModel) -> None:
    saes, text = served(tiny_host), steered(SHORT, edit("early", 3, Add(5.0)))

    table = trace(tiny_host, saes, text, read=("early",), after_edit=True, top=64)

    rows = plain_rows(tiny_host, saes, text, HookPoint(0, "resid_post"))
    acts = saes.get("early").sae.encode(rows)
    for row in table.rows:
        found = {each.feature: each.activation for each in row.features}
        expected = {n: float(value) for n, value in enumerate(acts[row.position]) if value > 0}
        assert found == pytest.approx(expected, abs=TOLERANCE)
    plain = trace(tiny_host, saes, text, read=("early",), top=64)
    assert [row.features for row in plain.rows] != [row.features for row in table.rows]


def test_inactive_features_are_left_out_and_a_stop_leaves_whole_saes(tiny_host: HostModel) -> None:
    saes = served(tiny_host)
    wish = TraceWish(text=steered(SHORT), plan_hash="", saes=tuple(POINTS), positions=POSITIONS, top=64)
    with steered_forward(tiny_host, saes) as forward:
        study = Trace(forward, tiny_host, saes, wish)
        slices = study.run()
        next(slices), next(slices)
        table = study.result()
        slices.close()  # type: ignore[attr-defined]

    assert not table.complete
    assert {row.sae for row in table.rows} == {"other"}  # TopK with 8 of 64
    assert [len(row.features) for row in table.rows] == [row.active for row in table.rows]
    assert all(len(row.features) <= 8 for row in table.rows)
    assert not torch.tensor([row.unexplained for row in table.rows]).isnan().any()
