"""What is held when a request cannot be resolved, because memory ran out or for any other reason: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add, Condition, FeatureRef, FeatureTest, Intervention
from steerd.steering.lane_tables import LaneTables
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlanner
from tests.steering.test_step_plan import serve

FIRST, SECOND = HookPoint(0, "resid_post"), HookPoint(1, "resid_post")
PROMPT = [10, 11, 12]


@pytest.fixture
def planner(tiny_host: HostModel) -> Iterator[StepPlanner]:
    planner = StepPlanner(tiny_host, serve(tiny_host, {"first": FIRST, "second": SECOND}), 0)
    yield planner
    planner.close()


def above(sae: str, index: int) -> Condition:
    return Condition(((FeatureTest(target=FeatureRef(sae, index), above=0.5, release_below=0.5),),))


def steering() -> Steering:
    """With edits, tests and lanes at both points."""
    edits = tuple(
        Intervention(target=FeatureRef(sae, 3), operation=Add(1.0), condition=above(sae, 4))
        for sae in ("first", "second")
    )
    return Steering(interventions=edits)


def columns(planner: StepPlanner) -> list[int]:
    return [planner._points[point].table.num_columns for point in (FIRST, SECOND)]


def assert_no_tests(planner: StepPlanner, slot: int) -> None:
    for point in planner._points.all():
        if slot < len(point.lanes._tests["above"]):
            assert point.lanes._tests["above"][slot].isinf().all()
            assert (point.lanes._lanes["column"][slot] == 0).all()


@pytest.fixture
def fails_at_second(planner: StepPlanner, monkeypatch: pytest.MonkeyPatch) -> StepPlanner:
    """Memory runs out for the tests and lanes of one hook point, when those of another stand already."""
    put, calls = LaneTables.put, count()

    def out_of_memory(tables: LaneTables, *args: Any, **kwargs: Any) -> None:
        if next(calls) % 2:
            raise torch.OutOfMemoryError("no room for more lanes")
        put(tables, *args, **kwargs)

    monkeypatch.setattr(LaneTables, "put", out_of_memory)
    return planner


def test_a_request_that_cannot_be_resolved_holds_no_slot_and_no_column(fails_at_second: StepPlanner) -> None:
    for _ in range(3):
        with pytest.raises(torch.OutOfMemoryError):
            fails_at_second.resolve(prompt_ids=PROMPT, steering=steering())
        assert columns(fails_at_second) == [0, 0]
        assert_no_tests(fails_at_second, slot=0)

    assert fails_at_second.resolve(prompt_ids=PROMPT, steering=Steering()).slot == 0


def test_a_switch_that_cannot_be_resolved_holds_nothing_once_its_request_is_released(
    fails_at_second: StepPlanner,
) -> None:
    """The request ends; until then its own wishes keep their columns."""
    edit = Intervention(target=FeatureRef("first", 7), operation=Add(1.0))
    asked = Steering(interventions=(edit,))
    wishes = fails_at_second.resolve(prompt_ids=PROMPT, steering=asked)
    before = columns(fails_at_second)

    with pytest.raises(torch.OutOfMemoryError):
        fails_at_second.switch(wishes, steering(), prompt_ids=PROMPT, first_position=3, numbers=(0, 1))
    assert columns(fails_at_second) == before == [1, 0]
    fails_at_second.release(wishes)

    assert columns(fails_at_second) == [0, 0]
    assert_no_tests(fails_at_second, slot=wishes.slot)
