"""Readings that wait for the end of the forward are those that are taken inside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from steerd.host.host_model import HostModel
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    FeatureRef,
    FeatureTest,
    Intervention,
    Scale,
)
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.row_span import RowSpan
from steerd.steering.steered_point import PointStep
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlanner
from tests.engine.requests import edit
from tests.steering.test_step_plan import FIRST_POINT, serve

WAITS, AT_ONCE = 200, 300  # rows
TOLERANCE = 1e-5  # float32 sums of another number of rows

ACTIVE = FeatureTest(target=FeatureRef("sae", 9), above=0.0, release_below=0.0)
WAYS = {
    "read alone": (),
    "add": (edit("sae", 3, Add(4.0)),),
    "scale": (edit("sae", 3, Scale(3.0)), edit("sae", 4, Ablate())),
    "condition": (
        Intervention(
            target=FeatureRef("sae", 3), operation=Add(4.0), condition=Condition(any_of=((ACTIVE,),))
        ),
    ),
}


def run(saes: LoadedSaes, host: HostModel, rows: Tensor, edits: Sequence[Intervention]) -> PointStep:
    """The settled part of a step of these rows, all one request's; whoever gets the rows spoils them."""
    planner = StepPlanner(host, saes, sample_every=7)
    planner.watch([FeatureRef("sae", 5), FeatureRef("sae", 3)])
    tokens = list(range(1, len(rows) + 1))
    wishes = planner.resolve(
        prompt_ids=tokens,
        steering=Steering(interventions=tuple(edits)),
        top_k=4,
        top_k_saes=("sae",),
        include_prompt=True,
    )
    plan = planner.plan([RowSpan("a", 0, 0, tokens)], {"a": wishes})
    step = plan.points[FIRST_POINT]
    resid = rows.clone()
    with torch.inference_mode():
        step.run(resid, is_shared=True).fill_(torch.nan)
        plan.settle()
    planner.close()
    return step


@pytest.mark.parametrize("way", WAYS)
def test_readings_that_wait_are_those_taken_at_once(tiny_host: HostModel, way: str) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    rows = torch.randn(AT_ONCE, tiny_host.d_model)

    whole, waited = (run(saes, tiny_host, rows[:count], WAYS[way]) for count in (AT_ONCE, WAITS))

    def same(found: Tensor, expected: Tensor) -> None:
        assert not found.isnan().any()
        torch.testing.assert_close(found, expected[: len(found)], atol=TOLERANCE, rtol=TOLERANCE)

    same(waited.acts, whole.acts)
    for found, expected in zip(waited.encodings, whole.encodings, strict=True):
        same(found.top_values, expected.top_values)
        same(found.sampled_acts, expected.sampled_acts)
    if WAYS[way]:
        same(waited.after.acts, whole.after.acts)
        same(waited.after.lengths, whole.after.lengths)
        same(waited.after.changes, whole.after.changes)
        assert waited.after.changes.any()
