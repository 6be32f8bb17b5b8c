"""Tests and lanes against a loop over the rows of each request, with booleans and counters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from steerd.host.hook_point import HookPoint
from steerd.steering.intervention import Condition, FeatureRef, FeatureTest
from steerd.steering.lane_tables import LaneTables
from steerd.steering.lanes import ALWAYS, Lane, LaneBook
from steerd.steering.step_rows import StepRows

EARLY, LATE = HookPoint(0, "resid_post"), HookPoint(1, "resid_post")
COLUMNS = 5
CPU = torch.device("cpu")


def point_of(test: FeatureTest) -> tuple[HookPoint, int]:
    """Features of two SAEs, each read by the column of its number."""
    assert isinstance(test.target, FeatureRef)
    return (EARLY if test.target.sae == "early" else LATE), test.target.index


def one_test(above: float, release_below: float | None = None, column: int = 2, **more: bool) -> FeatureTest:
    release = above if release_below is None else release_below
    return FeatureTest(target=FeatureRef("early", column), above=above, release_below=release, **more)


@dataclass(eq=False)
class Edit:
    """An edit at LATE: its condition, how many rows it may edit, and on which it is in scope."""

    condition: Condition | None
    at_most: int
    column: int | None
    scope: list[bool]


@dataclass(eq=False)
class Text:
    """A request's rows: activations at both points [rows, columns], and which rows are ordinary."""

    acts: dict[HookPoint, Tensor]
    ordinary: list[bool]
    edits: list[Edit]
    slot: int = 0
    done: int = 0
    found: list[list[bool]] = field(default_factory=list)

    def expected(self) -> list[list[bool]]:
        """By row and edit, whether it is made: state carried from row to row."""
        on: dict[int, bool] = {}
        used = [0] * len(self.edits)
        rows = []
        for row, ordinary in enumerate(self.ordinary):
            made = []
            for number, edit in enumerate(self.edits):
                holds = edit.condition is None
                for all_of in () if edit.condition is None else edit.condition.any_of:
                    tests = [self._is_on(test, row, ordinary, on) for test in all_of]
                    holds = all(tests) or holds
                wanted = holds and edit.scope[row]
                used[number] += wanted
                made.append(wanted and (edit.at_most == 0 or used[number] <= edit.at_most))
            rows.append(made)
        return rows

    def _is_on(self, test: FeatureTest, row: int, ordinary: bool, on: dict[int, bool]) -> bool:
        point, column = point_of(test)
        z = float(self.acts[point][row, column])
        if ordinary or test.include_special_tokens:
            if z > test.above:
                on[id(test)] = True
            elif z <= test.release_below:
                on[id(test)] = False
        return on.get(id(test), False)


class Points:
    """The tables of both points, as a planner holds them."""

    def __init__(self) -> None:
        self.tables = {EARLY: LaneTables(CPU), LATE: LaneTables(CPU)}
        self.rows = StepRows(CPU)

    def start(self, text: Text) -> None:
        book = LaneBook(point_of)
        for edit in text.edits:
            needs = ALWAYS if edit.condition is None else book.needs(edit.condition)
            book.add(Lane(LATE, needs, edit.at_most, edit.column, keeps_length=False))
        for point, tables in self.tables.items():
            tests = [test for test in book.tests if test.hook_point == point]
            tables.put(text.slot, tests, [lane for lane in book.lanes if lane.hook_point == point])

    def end(self, text: Text) -> None:
        for tables in self.tables.values():
            tables.clear(text.slot)

    def step(self, parts: Sequence[tuple[Text, int]]) -> Tensor:
        """Run the next rows of some texts, so many of each; the lanes [rows, lanes] at LATE."""
        spans = [range(text.done, text.done + count) for text, count in parts]
        starts = np.cumsum([0, *map(len, spans)])
        ordinary = [text.ordinary[row] for (text, _), span in zip(parts, spans, strict=True) for row in span]
        slots = np.array([text.slot for text, _ in parts], dtype=np.int64)
        self.rows.write(slots, starts[:-1], np.array(ordinary, dtype=np.bool_))
        self.rows.begin()
        for tables in self.tables.values():
            tables.begin(int(slots.max()) + 1, len(ordinary))
        for (text, _), span, start in zip(parts, spans, starts, strict=False):
            for lane, edit in enumerate(text.edits):
                rows = np.array([edit.scope[row] for row in span])
                if rows.any():
                    self.tables[LATE].cover(int(start), rows, lane)
        for point, tables in self.tables.items():
            acts = [text.acts[point][list(span)] for (text, _), span in zip(parts, spans, strict=True)]
            tables.run_tests(torch.cat(acts), self.rows.rows, self.rows.bits)
        is_open = self.tables[LATE].open(self.rows.bits, self.rows.rows)
        for (text, count), start in zip(parts, starts, strict=False):
            text.found += is_open[start : start + count, : len(text.edits)].tolist()
            text.done += count
        return is_open


def random_test(chance: random.Random) -> FeatureTest:
    above = chance.choice([-0.5, 0.0, 0.5])
    release = chance.choice([above, above - 0.7, -inf])
    target = FeatureRef(chance.choice(["early", "late"]), chance.randrange(COLUMNS))
    return FeatureTest(
        target=target,
        above=above,
        release_below=release,
        include_special_tokens=chance.random() < 0.3,
    )


def random_text(chance: random.Random, num_rows: int) -> Text:
    def condition() -> Condition:
        clauses = [
            tuple(random_test(chance) for _ in range(chance.randint(1, 3)))
            for _ in range(chance.randint(1, 4))
        ]
        return Condition(tuple(clauses))

    def scope() -> list[bool]:
        return [chance.random() < 0.8 for _ in range(num_rows)]

    generator = torch.Generator().manual_seed(chance.randrange(10**6))
    return Text(
        acts={point: torch.randn(num_rows, COLUMNS, generator=generator) for point in (EARLY, LATE)},
        ordinary=[chance.random() < 0.7 for _ in range(num_rows)],
        edits=[
            Edit(condition() if chance.random() < 0.8 else None, chance.choice([0, 2, 6]), number, scope())
            for number in range(chance.randint(0, 4))
        ],
    )


@pytest.mark.parametrize("seed", range(6))
def test_lanes_are_open_where_a_loop_over_the_rows_says_so(seed: int) -> None:
    """Requests come and go, share steps in any order and are cut anywhere."""
    chance = random.Random(seed)
    points, free, running = Points(), list(range(4)), []
    opened = shut = 0
    for _ in range(60):
        while free and chance.random() < 0.7:
            text = random_text(chance, chance.randint(1, 40))
            text.slot = free.pop(chance.randrange(len(free)))
            points.start(text)
            running.append(text)
        chosen = chance.sample(running, chance.randint(1, len(running))) if running else []
        if not chosen:
            continue
        points.step([(t, chance.randint(1, min(9, len(t.ordinary) - t.done))) for t in chosen])
        for text in [t for t in running if t.done == len(t.ordinary)]:
            running.remove(text)
            points.end(text)
            free.append(text.slot)
            assert text.found == text.expected()
            opened += sum(map(sum, text.found))
            shut += sum(not is_open for row in text.found for is_open in row)
    assert min(opened, shut) > 100


def opens(z: Sequence[float], test: FeatureTest, special: Sequence[int] = (), at_most: int = 0) -> str:
    """Which rows of one request open a lane of one test: a letter a row, x for open."""
    acts = torch.zeros(len(z), COLUMNS)
    acts[:, 2] = torch.tensor(z)
    everywhere = [True] * len(z)
    text = Text(
        acts={EARLY: acts, LATE: torch.zeros_like(acts)},
        ordinary=[row not in special for row in range(len(z))],
        edits=[Edit(Condition(((test,),)), at_most, 0, everywhere)],
    )
    points = Points()
    points.start(text)
    points.step([(text, 3)])
    points.step([(text, len(z) - 3)])
    return "".join("x" if made else "." for (made,) in text.found)


def test_a_test_by_hand() -> None:
    z = [0.0, 2.0, 0.5, 1.0, 2.0, 0.5, 0.2, 0.5, 3.0]

    assert opens(z, one_test(1.0)) == ".x..x...x", "above is strict"
    assert opens(z, one_test(1.0, 0.2)) == ".xxxxx..x", "stays on between"
    assert opens(z, one_test(1.0, -inf)) == ".xxxxxxxx", "never off again"
    assert opens(z, one_test(1.0, 0.2), special=[4]) == ".xxxxx..x"
    assert opens(z, one_test(1.0), special=[1, 2]) == "....x...x", "special rows leave it off"
    assert opens(z, one_test(1.0), special=[5, 6]) == ".x..xxx.x", "and on"
    assert opens(z, one_test(1.0, include_special_tokens=True), special=[1, 2]) == ".x..x...x"
    assert opens(z, one_test(1.0, 0.2), at_most=4) == ".xxxx...."


def test_not_a_number_changes_nothing() -> None:
    assert opens([0.0, 2.0, float("nan"), 0.0, float("nan")], one_test(1.0)) == ".xx.."


def test_gates_shut_the_columns_of_shut_lanes_alone() -> None:
    tables, rows = LaneTables(CPU), StepRows(CPU)
    lanes = [Lane(LATE, (1,), 0, 3, True), Lane(LATE, ALWAYS, 0, 1, False), Lane(LATE, (1,), 0, None, True)]
    tables.put(1, [], lanes)
    tables.put(0, [], lanes[:1])
    rows.write(np.array([1, 0]), np.array([0, 1]), np.array([True, True]))
    rows.begin()
    tables.begin(3, 2)
    for lane in range(3):
        tables.cover(0, np.array([True, lane == 0]), lane)

    is_open = tables.open(rows.bits, rows.rows)
    assert is_open.tolist() == [[False, True, False], [False, False, False]]
    assert tables.gates(is_open, rows.rows, 5).tolist() == [
        [True, True, True, False, True],
        [True, True, True, False, True],
    ]
    assert tables.keeps_length(is_open, rows.rows).tolist() == [False, False]
    rows.bits += 1
    is_open = tables.open(rows.bits, rows.rows)
    assert is_open.tolist() == [[True, True, True], [True, False, False]]
    assert tables.gates(is_open, rows.rows, 4).all()
    assert tables.keeps_length(is_open, rows.rows).tolist() == [True, True]


def test_first_tests_keep_their_state_when_the_others_are_replaced() -> None:
    tables, rows = LaneTables(CPU), StepRows(CPU)
    book = LaneBook(point_of)
    for column in (0, 1):
        book.needs(Condition(((one_test(1.0, -inf, column),),)))
    tables.put(0, book.tests, [])
    tables.begin(1, 1)
    rows.write(np.array([0]), np.array([0]), np.array([True]))

    def bits(z: float) -> int:
        rows.begin()
        tables.run_tests(torch.full((1, COLUMNS), z), rows.rows, rows.bits)
        return int(rows.bits)

    assert bits(0.0) == 0
    assert bits(2.0) == bits(0.0) == 0b11
    tables.put(0, book.tests, [], num_kept=1)
    assert bits(0.0) == 0b01
    tables.put(0, book.tests, [])
    assert bits(0.0) == 0


def three_requests(seed: int) -> tuple[Points, list[Text]]:
    """Under way at the same row."""
    chance = random.Random(seed)
    points, texts = Points(), [random_text(chance, 30) for _ in range(3)]
    for slot, text in enumerate(texts):
        text.slot = slot
        points.start(text)
    points.step([(text, 4) for text in texts])
    return points, texts


def forward(points: Points, early: Tensor, late: Tensor) -> Tensor:
    """What the hooks of both points do."""
    rows = points.rows
    rows.begin()
    points.tables[EARLY].run_tests(early, rows.rows, rows.bits)
    points.tables[LATE].run_tests(late, rows.rows, rows.bits)
    is_open = points.tables[LATE].open(rows.bits, rows.rows)
    return points.tables[LATE].gates(is_open, rows.rows, COLUMNS)


def test_what_is_recorded_once_replays_with_other_contents() -> None:
    """As a CUDA graph does: no number of a plan is frozen, no shape depends on data, nothing waits for it."""
    (recorded, texts), (eager, same_texts) = three_requests(5), three_requests(5)
    z = torch.zeros(12, COLUMNS)
    graph = make_fx(partial(forward, recorded))(z, z)
    forward(eager, z, z)
    for points, requests in ((recorded, texts), (eager, same_texts)):
        points.step([(text, 4) for text in reversed(requests)])  # the same shapes, other rows

    made = []
    for _ in range(5):
        early, late = torch.randn(12, COLUMNS), torch.randn(12, COLUMNS)
        made.append(graph(early, late))
        assert torch.equal(made[-1], forward(eager, early, late))
    assert 0 < torch.stack(made).float().mean() < 1
    assert not any("_local_scalar_dense" in str(node.target) for node in graph.graph.nodes)
