"""Hooks that are recorded once and run again with other plans, in tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    FeatureRef,
    FeatureTest,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Set,
    WholeSae,
    unit_direction,
)
from steerd.steering.lane_tables import LaneTables
from steerd.steering.point_table import PointTable
from steerd.steering.request_wishes import RequestWishes
from steerd.steering.room import Room
from steerd.steering.row_span import RowSpan
from steerd.steering.scope import Schedule, Scope
from steerd.steering.steered_point import PointStep
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlan, StepPlanner
from steerd.steering.step_rows import StepRows
from tests.engine.tape import Tape
from tests.steering.test_step_plan import serve
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

FIRST_POINT, SECOND_POINT = HookPoint(0, "resid_post"), HookPoint(1, "resid_post")
Wishes = tuple[Intervention, ...]
ROOM = Room(rows=24, requests=4)
TOKENS = [[10, 11, 12, 13, 14, 15], [20, 21, 22, 23, 24, 25], [30, 31, 32, 33, 34, 35]]


class Bench:
    """A planner with room, whose steps are the three texts side by side, the last of them nobody's."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.host = make_tiny_host(dtype=dtype)
        self.saes = serve(self.host, {"sae": FIRST_POINT, "other": SECOND_POINT})
        self.planner = StepPlanner(self.host, self.saes, 0, ROOM)
        self._ids = torch.tensor(TOKENS)
        self._mask = torch.full((3, 1, 6, 6), -inf, dtype=dtype).triu(diagonal=1)
        self.logits = torch.zeros(3, 6, self.host.vocab_size, dtype=dtype)

    def forward(self) -> None:
        """As a step that is recorded does, leaving what it gives in a tensor that stays."""
        # A mask of ours, as transformers looks into the numbers of its own.
        output = self.host.model(input_ids=self._ids, attention_mask=self._mask, use_cache=False)
        self.logits.copy_(output.logits)

    def record(self) -> Tape:
        """The forward over what is planned."""
        tape = Tape()
        with torch.inference_mode(), tape:
            self.forward()
        tape.restore()
        return tape

    @torch.inference_mode()
    def step(self, wishes: tuple[Wishes, Wishes], run: Callable[[], None]) -> tuple[Tensor, list[Tensor]]:
        """The logits that a step gives, and all that is read of it."""
        resolved = [self.resolve(own) for own in wishes]
        spans = [RowSpan(name, 6 * row, 0, TOKENS[row]) for row, name in enumerate("ab")]
        plan = self.planner.plan(spans, dict(zip("ab", resolved, strict=True)), padding=6)
        run()
        plan.settle()
        for request in resolved:
            self.planner.release(request)
        return self.logits.clone(), [tensor.clone() for tensor in readings(plan)]

    def resolve(self, wishes: Wishes) -> RequestWishes:
        return self.planner.resolve(
            prompt_ids=TOKENS[0],
            steering=Steering(interventions=wishes),
            watch=(FeatureRef("sae", 1),),
            include_prompt=True,
        )


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.planner.close()


def edit(target: int | str, operation: Operation, *, point: str = "sae", **options: object) -> Intervention:
    if isinstance(target, str):
        values = np.random.default_rng(len(target)).normal(size=32).tolist()
        return Intervention(target=unit_direction(target, values), operation=operation, **options)
    return Intervention(target=FeatureRef(point, target), operation=operation, **options)


def when(index: int, above: float) -> Condition:
    test = FeatureTest(target=FeatureRef("sae", index), above=above, release_below=above - 0.2)
    return Condition(((test,),))


def everything() -> list[Wishes]:
    """Wishes that need one kind of table after the other, then fewer of them."""
    demanded = partial(edit, source="policy:p@1")
    return [
        (edit(3, Add(2.0)), edit(5, Ablate(), point="other")),
        (
            edit(4, Set(1.5, only_if_active=True)),
            demanded(6, Limit(0.2, 0.4)),
            edit(5, Add(1.0), preserve_norm=True),
        ),
        (edit(7, Add(3.0), condition=when(9, 0.1)), edit("blocks.1.hook_resid_post", Set(0.5))),
        (edit(8, Add(1.0), schedule=Schedule(at_most=2)), edit(2, Limit(high=0.0), point="other")),
        (edit(3, Add(-2.0)),),
        (),
        (demanded(3, Set(0.7)), edit(9, Add(1.0), condition=when(1, 0.0), scope=Scope(first_n=4))),
    ]


def pairs() -> list[tuple[Wishes, Wishes]]:
    return list(zip(everything(), reversed(everything()), strict=True))


def readings(plan: StepPlan) -> list[Tensor]:
    """All that hooks left of a step, hook point by hook point."""
    found: list[Tensor | None] = []
    for _, step in sorted(plan.points.items(), key=lambda item: item[0].layer):
        found.append(step.acts)
        if step.edits is not None:
            found += [step.edits_done.amounts, step.edits_done.made]
        if step.demanded is not None:
            found.append(step.demanded_done.amounts)
        if step.is_edited:
            found += [step.after.acts, step.after.lengths, step.after.changes]
    return [tensor for tensor in found if tensor is not None]


def test_a_recorded_forward_gives_what_other_plans_want(bench: Bench) -> None:
    """The bits of the logits and of all readings are those that the hooks give when they run themselves."""
    for wishes in pairs():  # so that every table is there
        bench.step(wishes, bench.forward)
    program, tape = bench.planner.program, bench.record()

    seen = set()
    for wishes in pairs():
        expected, expected_readings = bench.step(wishes, bench.forward)
        bench.logits.zero_()
        got, got_readings = bench.step(wishes, tape.replay)

        assert torch.equal(got, expected)
        assert len(got_readings) == len(expected_readings) >= 4
        assert all(map(torch.equal, got_readings, expected_readings))
        seen.add(tuple(got[0, -1].tolist()))
    assert len(seen) == len(pairs())
    assert bench.planner.program == program


def test_no_plan_moves_a_tensor_that_hooks_read_or_write(bench: Bench) -> None:
    for wishes in pairs():
        bench.step(wishes, bench.forward)
    places = []
    for wishes in pairs():
        bench.step(wishes, bench.forward)
        points = [point for _, point in sorted(bench.planner._points.items(), key=lambda item: str(item[0]))]
        places.append([tensor.data_ptr() for point in points for tensor in all_tensors(point.hook.step)])

    assert len(places[0]) > 40
    assert places.count(places[0]) == len(places)


def test_with_room_a_step_is_what_it_is_without(bench: Bench) -> None:
    """Rows of nobody, tables of nothing and columns that are free change no bit of an unsteered row."""
    for wishes in pairs():
        bench.step(wishes, bench.forward)
    bench.step(((), ()), bench.forward)
    unsteered = bench.logits.clone()
    bench.step((everything()[0], ()), bench.forward)
    beside = bench.logits.clone()
    bench.planner.close()
    bench.forward()

    assert torch.equal(unsteered, bench.logits)
    assert torch.equal(beside[1:], unsteered[1:])
    assert not torch.equal(beside[0], unsteered[0])


def test_a_table_that_moves_is_another_program(bench: Bench) -> None:
    """More columns, tests or lanes than ever before; then as many again."""
    bench.step(((edit(3, Add(0.1)),), ()), bench.forward)
    programs = [bench.planner.program]
    wide = (*(edit(index, Add(0.1)) for index in range(64)), edit("blocks.0.hook_resid_post", Add(1.0)))
    lane = (edit(7, Add(3.0), condition=when(9, 0.1)),)
    lanes = tuple(edit(index, Add(3.0), condition=when(index, 0.1)) for index in range(3))
    for wishes in (wide, lane, lanes):
        bench.step((wishes, ()), bench.forward)
        programs.append(bench.planner.program)
        bench.step((wishes, wishes[:1]), bench.forward)
        assert bench.planner.program == programs[-1]

    assert len(set(programs)) == 4


def test_a_hook_that_had_no_part_in_a_step_is_found_out(bench: Bench) -> None:
    bench.step(pairs()[0], bench.forward)

    with pytest.raises(RuntimeError, match=r"hook at blocks\.\d\.hook_resid_post did not run"):
        bench.step(pairs()[1], lambda: None)


def test_only_steps_along_directions_of_columnwise_saes_can_be_recorded() -> None:
    host = make_tiny_host()
    saes = serve(host, {"sae": FIRST_POINT})
    saes.add("topk", tiny_sae(host, SECOND_POINT, activation="topk"))
    planner = StepPlanner(host, saes, 0, ROOM)

    def can_record(intervention: Intervention) -> bool:
        wishes = planner.resolve(prompt_ids=[1], steering=Steering(interventions=(intervention,)))
        found = planner.can_record([wishes])
        planner.release(wishes)
        return found

    assert can_record(edit(3, Add(1.0)))
    assert not can_record(Intervention(target=WholeSae("sae"), operation=Reconstruct()))
    assert not can_record(edit(3, Add(1.0), point="topk"))
    assert can_record(edit(3, Ablate()))
    planner.close()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("room", [None, ROOM])
def test_edits_of_a_16_bit_host_are_float32_arithmetic_rounded_once(
    dtype: torch.dtype, room: Room | None
) -> None:
    """Each number leaves the hook point as the nearest of its kind to what float64 says, ties aside."""
    host = make_tiny_host(dtype=dtype)
    saes = serve(host, {"sae": FIRST_POINT})
    before = host.activations(torch.tensor(TOKENS), None, [FIRST_POINT])[FIRST_POINT].reshape(18, -1)
    planner = StepPlanner(host, saes, 0, room)
    wishes = planner.resolve(
        prompt_ids=TOKENS[0], steering=Steering(interventions=(edit(3, Set(1.7)), edit(4, Add(-0.9))))
    )
    spans = [RowSpan(name, 6 * row, 0, TOKENS[row]) for row, name in enumerate("abc")]
    planner.plan(spans, dict.fromkeys("abc", wishes))
    after = host.activations(torch.tensor(TOKENS), None, [FIRST_POINT])[FIRST_POINT].reshape(18, -1)
    planner.close()

    sae = saes.get("sae").sae.to(dtype=torch.float64)
    x = before.double()
    z = sae.encode(x)[:, 3:4]
    exact = x + (1.7 - z) * sae.W_dec[3] - 0.9 * sae.W_dec[4]
    assert after.dtype == dtype
    exact_as_read = exact.to(dtype)
    off = after != exact_as_read
    assert off.float().mean() < 0.01  # where float32 falls on the other side of a tie
    spacing = (torch.nextafter(after, torch.full_like(after, inf)) - after).double().abs()
    assert ((after.double() - exact).abs() <= 0.501 * 2 * spacing).all()
    assert (after != before).any(dim=1).all()


def all_tensors(thing: object) -> Iterator[Tensor]:
    """Those of an object and of all that are in it, but for what an SAE has and the CPU's part of a plan."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, PointTable):
        yield from (thing._enc, thing._b_enc, thing._threshold, thing.directions)
    elif isinstance(thing, LaneTables):
        yield from (*thing._tests.values(), *thing._lanes.values(), thing._covered)
    elif isinstance(thing, StepRows):
        yield from (*all_tensors(thing.rows), thing.bits)
    elif is_dataclass(thing):
        inputs = ("table", "edits", "demanded", "lanes", "keeping") if isinstance(thing, PointStep) else None
        for item in fields(thing):
            if inputs is None or item.name in inputs:
                yield from all_tensors(getattr(thing, item.name))
