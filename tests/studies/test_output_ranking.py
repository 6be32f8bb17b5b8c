"""Output scores of many features against a plain forward each."""

from __future__ import annotations

import pytest
import torch

from steerd.steering.intervention import FeatureRef
from steerd.steering.steering import Steering
from steerd.studies.output_ranking import OutputRanking
from steerd.studies.output_table import OutputTable, OutputWish
from tests.engine.serving import serving, tiny_saes
from tests.engine.studies import begin
from tests.tiny_hosts import make_tiny_host

NEUTRAL = tuple(b"From my experience,")
FEATURES = tuple(FeatureRef(sae, index) for index in range(20) for sae in ("sae-0", "sae-1"))


def ranked(top: int) -> OutputTable:
    host = make_tiny_host()
    saes = tiny_saes(host)
    wish = OutputWish(FEATURES, NEUTRAL, Steering(), top)
    with serving(host=host, saes=saes) as engine:
        study = OutputRanking(host, saes, engine.steered_forward(saes), wish, slice_tokens=60)
        table = begin(engine, study).wait()
    assert isinstance(table, OutputTable)
    return table


@torch.no_grad()
def plain_score(feature: FeatureRef) -> float:
    host = make_tiny_host()
    loaded = tiny_saes(host).get(feature.sae)
    model, direction = host.model, loaded.sae.W_dec[feature.index]
    promoted = model.lm_head(model.model.norm(direction)).topk(20).indices.tolist()
    row = host.activations(torch.tensor([NEUTRAL]), None, [loaded.hook_point])[loaded.hook_point][0, -1]
    change = torch.zeros(len(NEUTRAL), host.d_model)
    change[-1] = 10 * float(loaded.sae.encode(row).max()) * direction
    handle = host.attach(loaded.hook_point, lambda rows: rows + change)
    probs = host.logits(torch.tensor([NEUTRAL]), None)[0, -1].softmax(dim=-1)
    handle.remove()
    order = probs.argsort(descending=True).tolist()
    best = min(order.index(token) for token in promoted)
    return float(probs[order[best]]) * (1 - best / len(order))


def test_every_score_is_that_of_a_plain_forward() -> None:
    table = ranked(top=1000)

    assert (table.complete, table.scored, len(table.features)) == (True, 40, 40)
    assert {found.feature for found in table.features} == set(FEATURES)
    scores = [found.score for found in table.features]
    assert scores == sorted(scores, reverse=True)
    for found in table.features[::5]:
        assert found.score == pytest.approx(plain_score(found.feature), rel=1e-3)
        assert len(found.promoted) == 20
        assert found.label is not None


def test_only_the_best_are_told() -> None:
    assert ranked(top=3).features == ranked(top=1000).features[:3]
