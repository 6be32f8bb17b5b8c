"""Each check fails on an engine that does what it is to find, and not on one that has little room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from steerd.config import EngineConfig
from steerd.engine.engine import Engine
from steerd.engine.prefix_pages import NO_PAGES
from steerd.host.hook_point import HookPoint
from steerd.selftest.checks import Checks
from steerd.selftest.probe_set import make_probe_set
from steerd.selftest.references import References
from steerd.selftest.report import Finding, Status
from steerd.steering.intervention import Condition, FeatureTest, Intervention
from steerd.steering.row_span import RowSpan
from steerd.steering.scope import Scope
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlanner
from tests.engine.recorder import StepLog
from tests.engine.serving import tiny_saes
from tests.tiny_hosts import make_tiny_host

PAGE = 8
CONFIG = EngineConfig(kv_cache_gib=0.005, page_size=PAGE, share_prefixes=False)
SHARING = replace(CONFIG, share_prefixes=True)
CHUNKS = replace(CONFIG, max_batch_tokens=7, max_running_requests=4)

Sabotage = Callable[[StepPlanner], None]
Check = Callable[[Checks], Finding]
Edits = tuple[Intervention, ...]


class Workbench:
    """One host, asked once while it was plain; engine after engine can then be tried on it."""

    def __init__(self) -> None:
        self.host = make_tiny_host("llama")
        self.saes = tiny_saes(self.host)
        self.probes = make_probe_set(self.host, self.saes, PAGE)
        self.references = References(self.host, self.saes, self.probes.with_references())

    def find(self, check: Check, sabotage: Sabotage, config: EngineConfig) -> Finding:
        engine = Engine(self.host, self.saes, config, StepLog())
        sabotage(engine._planner)
        return self.ask(engine, check, config)

    def ask(self, engine: Engine, check: Check, config: EngineConfig) -> Finding:
        engine.start()
        try:
            at_once = config.max_running_requests
            return check(Checks(engine, self.probes, self.references, at_once=at_once, host=self.host))
        finally:
            engine.stop()


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


def nothing(planner: StepPlanner) -> None:
    """No sabotage."""
    del planner


def dropped_edit(planner: StepPlanner) -> None:
    """The last intervention of a request is lost."""
    change_edits(planner, lambda edits, _prompt_ids: edits[:-1])


def off_by_one_span(planner: StepPlanner) -> None:
    """Every row counts as the one after it."""
    change_spans(planner, lambda span: replace(span, first_position=span.first_position + 1))


def steered_by_nobody(planner: StepPlanner) -> None:
    """A hook is left behind by an earlier request, say."""
    planner._points._handles.append(
        planner._points._host.attach(HookPoint(1, "resid_post"), lambda rows: rows * 1.01)
    )


def swapped_slots(planner: StepPlanner) -> None:
    """Each request of a step is given what another one asks."""
    plan = planner.plan

    def swapped(spans: Sequence[RowSpan], wishes: dict, padding: int) -> object:
        ids = [span.request_id for span in spans]
        others = dict(zip(ids, [*ids[1:], *ids[:1]], strict=True))
        return plan(spans, {request_id: wishes[other] for request_id, other in others.items()}, padding)

    planner.plan = swapped


def shared_rows(planner: StepPlanner) -> None:
    """What is written for one request's rows stands for the rows of all before it."""
    point = type(planner._points)._attached

    def attached(hook_point: HookPoint) -> object:
        made = point(planner._points, hook_point)
        write = made.edits.write
        made.edits.write = lambda _row, *rest: write(0, *rest)
        return made

    planner._points._attached = attached


def last_come_unserved(planner: StepPlanner) -> None:
    """The last request of a step is not steered, unless it is alone."""
    plan = planner.plan

    def unfair(spans: Sequence[RowSpan], wishes: dict, padding: int) -> object:
        last = spans[-1].request_id
        if len(spans) == 1:
            return plan(spans, wishes, padding)
        return plan(spans, wishes | {last: replace(wishes[last], edits=())}, padding)

    planner.plan = unfair


def frozen_gain(planner: StepPlanner) -> None:
    """Strengths stay what they were in the first step of a generation."""
    resolve = planner.resolve
    planner.resolve = lambda **asked: replace(resolve(**asked), is_steady=True)


def whole_pages_unserved(planner: StepPlanner) -> None:
    """Prompts that fill their pages exactly are not steered."""
    change_edits(planner, lambda edits, prompt_ids: edits if len(prompt_ids) % PAGE else ())


def chunks_from_zero(planner: StepPlanner) -> None:
    """Positions are counted from the start of a chunk."""
    change_spans(planner, lambda span: replace(span, first_position=0) if len(span.token_ids) > 1 else span)


def conditions_forgotten(planner: StepPlanner) -> None:
    """What waits for a feature is made at once."""
    change_edits(planner, lambda edits, _prompt_ids: tuple(replace(edit, condition=None) for edit in edits))


def states_lost(planner: StepPlanner) -> None:
    """What fired in one step is forgotten in the next."""
    plan = planner.plan

    def forgetful(spans: Sequence[RowSpan], wishes: dict, padding: int) -> object:
        for point in planner._points.all():
            point.lanes._tests["on"].zero_()
        return plan(spans, wishes, padding)

    planner.plan = forgetful


def scopes_forgotten(planner: StepPlanner) -> None:
    """Interventions are made everywhere."""
    change_edits(planner, lambda edits, _prompt_ids: tuple(replace(edit, scope=Scope()) for edit in edits))


def roles_lost(planner: StepPlanner) -> None:
    """Nobody knows any more who speaks where."""
    resolve = planner.resolve
    planner.resolve = lambda **asked: resolve(**asked | {"steering": replace(asked["steering"], roles=())})


def demands_are_wishes(planner: StepPlanner) -> None:
    """What a policy demands is read from the row before the request's own edits, like these."""
    change_edits(planner, lambda edits, _prompt_ids: tuple(replace(edit, source="") for edit in edits))


def releases_forgotten(planner: StepPlanner) -> None:
    """A test is off wherever its target is not above the number."""
    resolve = planner.resolve

    def forgetful(**asked: Any) -> object:
        triggers = tuple(
            replace(trigger, condition=Condition(tuple(map(_at_once, trigger.condition.any_of))))
            for trigger in asked["steering"].triggers
        )
        return resolve(**asked | {"steering": replace(asked["steering"], triggers=triggers)})

    planner.resolve = forgetful


def _at_once(clause: tuple[FeatureTest, ...]) -> tuple[FeatureTest, ...]:
    return tuple(replace(test, release_below=test.above) for test in clause)


def deaf_to_switches(planner: StepPlanner) -> None:
    """What a trigger switches to is not what steers from then on."""
    planner.switch = lambda wishes, *_asked, **_how: wishes


def switched_too_far(planner: StepPlanner) -> None:
    """A switch takes the edits of policies away as well."""
    switch = planner.switch

    def unbound(wishes: object, steering: Steering, **asked: Any) -> object:
        kept = [edit for edit in steering.interventions if not edit.is_demanded]
        numbers = asked["numbers"][: len(kept)]
        return switch(wishes, replace(steering, interventions=tuple(kept)), **asked | {"numbers": numbers})

    planner.switch = unbound


def change_edits(planner: StepPlanner, change: Callable[[Edits, Sequence[int]], Edits]) -> None:
    resolve = planner.resolve

    def changed(**asked: Any) -> object:
        edits = change(asked["steering"].interventions, asked["prompt_ids"])
        return resolve(**asked | {"steering": replace(asked["steering"], interventions=edits)})

    planner.resolve = changed


def change_spans(planner: StepPlanner, change: Callable[[RowSpan], RowSpan]) -> None:
    plan = planner.plan
    planner.plan = lambda spans, wishes, padding: plan([change(span) for span in spans], wishes, padding)


SABOTAGES: list[tuple[Check, Sabotage, EngineConfig]] = [
    (Checks.steered_is_reference, dropped_edit, CONFIG),
    (Checks.steered_is_reference, off_by_one_span, CONFIG),
    (Checks.steered_is_reference, conditions_forgotten, CONFIG),
    (Checks.steered_is_reference, roles_lost, CONFIG),
    (Checks.steered_is_reference, demands_are_wishes, CONFIG),
    (Checks.receipt_is_reference, dropped_edit, CONFIG),
    (Checks.receipt_is_reference, conditions_forgotten, CONFIG),
    (Checks.receipt_is_reference, roles_lost, CONFIG),
    (Checks.fired_is_reference, off_by_one_span, CONFIG),
    (Checks.fired_is_reference, releases_forgotten, CONFIG),
    (Checks.switched_is_scoped, deaf_to_switches, CONFIG),
    (Checks.switched_is_scoped, switched_too_far, CONFIG),
    (Checks.studied_is_reference, dropped_edit, CONFIG),
    (Checks.studied_is_reference, conditions_forgotten, CONFIG),
    (Checks.cached_is_uncached, states_lost, CONFIG),
    (Checks.unsteered_is_plain, steered_by_nobody, CONFIG),
    (Checks.batched_is_alone, swapped_slots, CONFIG),
    (Checks.batched_is_alone, shared_rows, CONFIG),
    (Checks.order_is_nothing, last_come_unserved, CONFIG),
    (Checks.cached_is_uncached, frozen_gain, CONFIG),
    (Checks.lengths_are_nothing, whole_pages_unserved, CONFIG),
    (Checks.chunked_is_whole, chunks_from_zero, CHUNKS),
    (Checks.no_op_is_nothing, scopes_forgotten, CHUNKS),
]


@pytest.mark.parametrize(
    ("check", "sabotage", "config"), SABOTAGES, ids=[f"{c.__name__}-{s.__name__}" for c, s, _ in SABOTAGES]
)
def test_a_sabotage_is_found(
    bench: Workbench, check: Check, sabotage: Sabotage, config: EngineConfig
) -> None:
    finding = bench.find(check, sabotage, config)

    assert finding.status is Status.FAILED
    assert finding.worst > 5 * finding.bound
    assert finding.remark


@pytest.mark.parametrize(
    "check", [Checks.batched_is_alone, Checks.lengths_are_nothing, Checks.no_op_is_nothing]
)
def test_one_request_at_a_time_is_no_sabotage(bench: Workbench, check: Check) -> None:
    config = replace(CONFIG, kv_cache_gib=0.001, max_running_requests=1, max_waiting_requests=0)

    assert bench.find(check, nothing, config).status is Status.PASSED


def test_pages_that_are_shared_whatever_steers_them_are_found(bench: Workbench) -> None:
    engine = Engine(bench.host, bench.saes, SHARING, StepLog())
    pages = engine._entrance._pages
    engine._entrance._pages = lambda request, wishes: pages(
        replace(request, steering=Steering()), replace(wishes, edits=())
    )

    finding = bench.ask(engine, Checks.shared_is_own, SHARING)

    assert finding.status is Status.FAILED
    assert finding.worst > 5 * finding.bound


def test_pages_that_nobody_finds_again_are_told(bench: Workbench) -> None:
    engine = Engine(bench.host, bench.saes, SHARING, StepLog())
    engine._entrance._pages = lambda _request, _wishes: NO_PAGES

    finding = bench.ask(engine, Checks.shared_is_own, SHARING)

    assert finding.status is Status.FAILED
    assert finding.remark == "no prompt took anything over"
