"""What a plan does to a forward of a host: to the rows it is for, to all others, and what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor

from steerd.errors import HostError
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.edit_cells import EditCells
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    FeatureRef,
    FeatureTest,
    Intervention,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
    unit_direction,
)
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.request_wishes import RequestWishes, SaeReads
from steerd.steering.row_span import RowSpan
from steerd.steering.scope import Phase, Schedule, Scope
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlan, StepPlanner
from steerd.steering.trigger import Switch, Trigger
from tests.engine.reference import amount
from tests.engine.requests import edit
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

IM_START = 257
# Three requests of six tokens; the second begins with a special token.
TOKENS = [[10, 11, 12, 13, 14, 15], [IM_START, 21, 22, 23, 24, 25], [30, 31, 32, 33, 34, 35]]
SPANS = [RowSpan(name, 6 * number, 0, TOKENS[number]) for number, name in enumerate("abc")]
FIRST_POINT, SECOND_POINT = HookPoint(0, "resid_post"), HookPoint(1, "resid_post")

# float32 sums in another order than the reference's float64.
TOLERANCE = 1e-5


def serve(host: HostModel, points: Mapping[str, HookPoint], architecture: str = "jumprelu") -> LoadedSaes:
    saes = LoadedSaes(host)
    for seed, (name, point) in enumerate(points.items()):
        saes.add(name, tiny_sae(host, point, seed=seed, activation=architecture))
    return saes


@contextmanager
def planning(
    host: HostModel, saes: LoadedSaes, watch: Sequence[FeatureRef] = (), sample_every: int = 0
) -> Iterator[StepPlanner]:
    planner = StepPlanner(host, saes, sample_every)
    planner.watch(watch)
    try:
        yield planner
    finally:
        planner.close()


def wish(
    planner: StepPlanner,
    interventions: Sequence[Intervention] = (),
    watch: Sequence[FeatureRef] = (),
    top_k: int = 0,
    top_k_saes: Sequence[str] = (),
    include_prompt: bool = True,
    prompt_ids: Sequence[int] = TOKENS[0][:4],
) -> RequestWishes:
    return planner.resolve(
        prompt_ids=prompt_ids,
        steering=Steering(interventions=tuple(interventions)),
        watch=watch,
        top_k=top_k,
        top_k_saes=top_k_saes,
        include_prompt=include_prompt,
    )


def reads_of(wishes: RequestWishes, sae: str) -> SaeReads:
    return next(reads for reads in wishes.by_sae if reads.sae == sae)


def logits(host: HostModel) -> Tensor:
    with torch.inference_mode():
        return host.model(input_ids=torch.tensor(TOKENS), use_cache=False).logits


def rows_at(host: HostModel, point: HookPoint) -> Tensor:
    """What leaves the hook point [rows, d_model], after the hooks attached before."""
    return host.activations(torch.tensor(TOKENS), None, [point])[point].reshape(18, -1)


def expected_rows(saes: LoadedSaes, x: Tensor, edits: Mapping[int, Sequence[Intervention]]) -> Tensor:
    """In float64, every edit of a row computed from the row as it came."""
    result = x.double()
    for row, interventions in edits.items():
        for intervention in interventions:
            assert isinstance(intervention.target, FeatureRef)
            sae = saes.get(intervention.target.sae).sae.to(dtype=torch.float64)
            z = sae.encode(x[row].double())[intervention.target.index]
            result[row] += amount(intervention, z) * sae.W_dec[intervention.target.index]
    return result


def test_hooks_with_nothing_planned_leave_the_logits_bit_identical(tiny_host: HostModel) -> None:
    plain = logits(tiny_host)
    with planning(tiny_host, serve(tiny_host, {"sae": FIRST_POINT})) as planner:
        assert torch.equal(logits(tiny_host), plain), "before any plan"
        empty = wish(planner)
        plan = planner.plan(SPANS, dict.fromkeys("abc", empty))

        assert (plan.saes, plan.points) == ({}, {})
        assert torch.equal(logits(tiny_host), plain)


def rows_by_edit(cells: EditCells) -> dict[tuple[int, int], list[int]]:
    """By slot and number of an edit, the rows of its cells."""
    rows = np.split(cells.rows, cells.starts[1:])
    keys = zip(cells.slots.tolist(), cells.numbers.tolist(), strict=True)
    return {key: part.tolist() for key, part in zip(keys, rows, strict=True)}


def test_readings_alone_leave_the_logits_bit_identical(tiny_host: HostModel) -> None:
    plain = logits(tiny_host)
    saes = serve(tiny_host, {"sae": FIRST_POINT, "other": SECOND_POINT})
    with planning(tiny_host, saes, [FeatureRef("other", 5)], sample_every=2) as planner:
        wishes = wish(planner, watch=[FeatureRef("sae", 3)], top_k=4, top_k_saes=("sae",))
        plan = planner.plan(SPANS, dict.fromkeys("abc", wishes))

        assert torch.equal(logits(tiny_host), plain)
        plan.settle()
        assert plan.points[FIRST_POINT].acts.shape == (18, 1)


def test_interventions_whose_scope_holds_no_row_leave_the_logits_bit_identical(tiny_host: HostModel) -> None:
    plain = logits(tiny_host)
    with planning(tiny_host, serve(tiny_host, {"sae": FIRST_POINT})) as planner:
        wishes = wish(planner, [edit("sae", 3, Add(9.0), Phase.GENERATED)], prompt_ids=TOKENS[0])
        plan = planner.plan(SPANS, dict.fromkeys("abc", wishes))

        assert torch.equal(logits(tiny_host), plain)
        assert plan.layout.edits == {}


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_steered_rows_are_the_formula_and_all_others_bit_identical(
    tiny_host: HostModel, architecture: str
) -> None:
    plain = rows_at(tiny_host, FIRST_POINT)
    saes = serve(tiny_host, {"sae": FIRST_POINT}, architecture)
    steered = [edit("sae", 3, Add(2.0)), edit("sae", 7, Scale(3.0)), edit("sae", 8, Set(1.5))]
    ablated = [edit("sae", feature, Ablate(), Phase.PROMPT) for feature in range(32)]
    with planning(tiny_host, saes) as planner:
        wishes = {
            "a": wish(planner),
            "b": wish(planner, steered, prompt_ids=TOKENS[1][:4]),
            "c": wish(planner, ablated),
        }
        plan = planner.plan(SPANS, wishes)

        got = rows_at(tiny_host, FIRST_POINT)

    # b's first token is special; of c only the prompt's four rows are edited.
    edits = dict.fromkeys(range(7, 12), steered) | dict.fromkeys(range(12, 16), ablated)
    others = [row for row in range(18) if row not in edits]
    assert torch.equal(got[others], plain[others])
    assert all(not torch.equal(got[row], plain[row]) for row in edits)
    torch.testing.assert_close(
        got.double(), expected_rows(saes, plain, edits), atol=TOLERANCE, rtol=TOLERANCE
    )
    b, c = wishes["b"].slot, wishes["c"].slot
    expected = {(b, number): range(7, 12) for number in range(3)}
    expected |= {(c, number): range(12, 16) for number in range(32)}
    assert rows_by_edit(plan.layout.edits[FIRST_POINT].cells) == {
        key: list(rows) for key, rows in expected.items()
    }


def test_two_saes_at_one_hook_point_compute_from_the_same_rows(tiny_host: HostModel) -> None:
    plain = rows_at(tiny_host, FIRST_POINT)
    saes = serve(tiny_host, {"one": FIRST_POINT, "two": FIRST_POINT})
    interventions = [edit("one", 3, Add(5.0)), edit("two", 3, Scale(4.0)), edit("two", 4, Ablate())]
    watch = [FeatureRef("one", 3), FeatureRef("two", 3), FeatureRef("two", 4)]
    with planning(tiny_host, saes) as planner:
        wishes = {"a": wish(planner, interventions, watch), "b": wish(planner), "c": wish(planner)}
        plan = planner.plan(SPANS, wishes)

        got = rows_at(tiny_host, FIRST_POINT)

    plan.settle()
    expected = expected_rows(saes, plain, dict.fromkeys(range(6), interventions))
    torch.testing.assert_close(got.double(), expected, atol=TOLERANCE, rtol=TOLERANCE)
    for name, features in (("one", [3]), ("two", [3, 4])):
        columns = list(reads_of(wishes["a"], name).columns)
        acts = saes.get(name).sae.feature_acts(plain, features)
        torch.testing.assert_close(
            plan.points[FIRST_POINT].acts[:, columns], acts, atol=TOLERANCE, rtol=TOLERANCE
        )


def test_a_later_hook_point_reads_what_the_earlier_one_left(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"early": FIRST_POINT, "late": SECOND_POINT})
    unsteered = rows_at(tiny_host, SECOND_POINT)
    with planning(tiny_host, saes) as planner:
        wishes = wish(planner, [edit("early", 3, Add(5.0))], [FeatureRef("late", 5)])
        plan = planner.plan(SPANS, {"a": wishes, "b": wish(planner), "c": wish(planner)})
        steered = rows_at(tiny_host, SECOND_POINT)

    plan.settle()
    late = saes.get("late").sae
    acts = plan.points[SECOND_POINT].acts[:, list(reads_of(wishes, "late").columns)]
    torch.testing.assert_close(acts, late.feature_acts(steered, [5]), atol=TOLERANCE, rtol=TOLERANCE)
    assert not torch.allclose(acts[:6], late.feature_acts(unsteered, [5])[:6], atol=1e-3)
    assert torch.equal(steered[6:], unsteered[6:]), "a sequence steers itself alone"


def test_edits_on_a_bfloat16_host_are_rounded_once_and_other_rows_bit_identical() -> None:
    host = make_tiny_host(dtype=torch.bfloat16)
    plain = rows_at(host, FIRST_POINT)
    saes = serve(host, {"sae": FIRST_POINT})
    interventions = [edit("sae", 3, Add(0.3)), edit("sae", 7, Scale(3.0)), edit("sae", 8, Set(1.5))]
    with planning(host, saes) as planner:
        wishes = {"a": wish(planner, interventions), "b": wish(planner), "c": wish(planner)}
        plan = planner.plan(SPANS, wishes)

        got = rows_at(host, FIRST_POINT)

    plan.settle()
    assert got.dtype == torch.bfloat16
    assert plan.points[FIRST_POINT].acts.dtype == torch.float32
    assert torch.equal(got[6:], plain[6:])
    exact = expected_rows(saes, plain, dict.fromkeys(range(6), interventions))[:6]
    _, exponent = exact.frexp()
    half_a_step = 2.0 ** (exponent - 9)  # bfloat16 keeps eight bits
    assert ((got[:6].double() - exact).abs() <= half_a_step + 1e-6).all()


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_top_k_and_l0_are_those_of_the_whole_encoding(tiny_host: HostModel, architecture: str) -> None:
    plain = rows_at(tiny_host, FIRST_POINT)
    saes = serve(tiny_host, {"sae": FIRST_POINT}, architecture)
    feature_acts = saes.get("sae").sae.encode(plain)
    with planning(tiny_host, saes, sample_every=4) as planner:
        wishes = {
            "a": wish(planner, top_k=2, top_k_saes=("sae",), include_prompt=False),
            "b": wish(planner, [edit("sae", 3, Add(9.0))]),
            "c": wish(planner, top_k=5, top_k_saes=("sae",)),
        }
        plan = planner.plan(SPANS, wishes)
        rows_at(tiny_host, FIRST_POINT)

    plan.settle()
    (step,) = plan.points[FIRST_POINT].encodings
    ordinary = [*range(1, 6), *range(7, 12), *range(13, 18)]  # no first and no special token
    assert plan.layout.ordinary.nonzero()[0].tolist() == ordinary
    sampled = ordinary[::4]
    # a is reported from its last prompt row on, c whole; b asks for none, but three of its rows are sampled.
    assert step.rows.tolist() == sorted({3, 4, 5, *range(12, 18), *sampled})
    torch.testing.assert_close(step.sampled_acts, feature_acts[sampled], atol=TOLERANCE, rtol=TOLERANCE)
    values, _ = feature_acts[step.rows].topk(5, dim=-1)
    torch.testing.assert_close(step.top_values, values, atol=TOLERANCE, rtol=TOLERANCE)
    found = feature_acts[step.rows].gather(1, step.top_features)
    torch.testing.assert_close(found, values, atol=TOLERANCE, rtol=TOLERANCE)


def test_every_nth_ordinary_row_is_sampled_across_steps(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    sampled: list[int] = []
    with planning(tiny_host, saes, sample_every=5) as planner:
        nothing = {"a": wish(planner)}
        for step in range(12):
            # One special token in the middle of three.
            span = RowSpan("a", 0, 3 * step + 1, [1, IM_START, 2])
            plan = planner.plan([span], nothing)
            if plan.saes:
                (encoding,) = plan.points[FIRST_POINT].encodings
                rows = encoding.rows[encoding.sampled].tolist()
                sampled += [2 * step + [0, 2].index(row) for row in rows]

    assert sampled == [0, 5, 10, 15, 20]


def test_released_features_cost_nothing_and_watched_ones_stay(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    with planning(tiny_host, saes, [FeatureRef("sae", 60), FeatureRef("sae", 61)]) as planner:
        wishes = wish(planner, [edit("sae", 61, Add(1.0))], [FeatureRef("sae", 4)])
        again = wish(planner, [edit("sae", 4, Add(1.0))])

        unsteered = wish(planner)

        def columns(requests: dict[str, RequestWishes]) -> int:
            plan: StepPlan = planner.plan(SPANS, {"b": unsteered, "c": unsteered} | requests)
            rows_at(tiny_host, FIRST_POINT)
            plan.settle()
            return plan.points[FIRST_POINT].acts.shape[1]

        assert columns({"a": wishes}) == 3
        planner.release(wishes)
        assert columns({"a": again}) == 3
        planner.release(again)
        assert columns({"a": wish(planner)}) == 2


def test_a_request_that_cannot_be_resolved_holds_nothing(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    nowhere = unit_direction(str(HookPoint(99, "resid_post")), [1.0] * 32)
    with planning(tiny_host, saes) as planner:
        with pytest.raises(HostError, match="99"):
            wish(planner, [edit("sae", 4, Add(1.0)), Intervention(target=nowhere, operation=Ablate())])
        other = wish(planner, [edit("sae", 5, Add(1.0))])
        plan = planner.plan(SPANS[:1], {"a": other})
        host_rows = tiny_host.activations(torch.tensor(TOKENS[:1]), None, [FIRST_POINT])

        plan.settle()
        assert host_rows[FIRST_POINT].shape[1] == 6
        assert plan.points[FIRST_POINT].acts.shape[1] == 1


def test_close_takes_the_hooks_off(tiny_host: HostModel) -> None:
    plain = logits(tiny_host)
    with planning(tiny_host, serve(tiny_host, {"sae": FIRST_POINT})) as planner:
        planner.plan(SPANS, dict.fromkeys("abc", wish(planner, [edit("sae", 3, Add(9.0))])))
        assert not torch.equal(logits(tiny_host), plain)

    assert torch.equal(logits(tiny_host), plain)


def test_several_edits_of_one_feature_share_a_target(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    twice = [edit("sae", 3, Add(1.0)), edit("sae", 3, Add(2.0), Phase.PROMPT, special=True)]
    with planning(tiny_host, saes) as planner:
        wishes = {"a": wish(planner), "b": wish(planner, twice, prompt_ids=TOKENS[1][:4]), "c": wish(planner)}
        plain = rows_at(tiny_host, FIRST_POINT)
        plan = planner.plan(SPANS, wishes)
        got = rows_at(tiny_host, FIRST_POINT)

    cells, slot = plan.layout.edits[FIRST_POINT].cells, wishes["b"].slot
    assert rows_by_edit(cells) == {(slot, 0): [7, 8, 9, 10, 11], (slot, 1): [6, 7, 8, 9]}
    (shared,) = cells.shared
    assert (shared.slot, shared.target) == (slot, FeatureRef("sae", 3))
    assert set(cells.rows[shared.cells]) == set(range(6, 12))
    strengths = (got - plain) @ saes.get("sae").sae.W_dec[3]  # directions are unit vectors
    expected = torch.tensor([0.0] * 6 + [2.0, 3.0, 3.0, 3.0, 1.0, 1.0] + [0.0] * 6)
    torch.testing.assert_close(strengths, expected, atol=TOLERANCE, rtol=0)


def decode(position: int, order: str = "abc", token_ids: Sequence[int] = (1, 2, 3)) -> list[RowSpan]:
    """One generated row of each request."""
    return [RowSpan(name, row, position, [token_ids[row]]) for row, name in enumerate(order)]


def row_edits(
    planner: StepPlanner, host: HostModel, spans: Sequence[RowSpan], wishes: Mapping[str, RequestWishes]
) -> list[float]:
    """Plan a step and tell how far each of its rows is moved, beside an unsteered forward."""
    ids = torch.tensor([[token_id for span in spans for token_id in span.token_ids]])
    planner.plan(spans, dict.fromkeys(wishes, wish(planner)))
    plain = host.activations(ids, None, [FIRST_POINT])[FIRST_POINT][0]
    planner.plan(spans, wishes)
    steered = host.activations(ids, None, [FIRST_POINT])[FIRST_POINT][0]
    return [round(float(moved), 4) for moved in (steered - plain).norm(dim=1)]


def test_a_decode_step_like_the_one_before_makes_nothing_new(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT, "other": SECOND_POINT})
    with planning(tiny_host, saes, [FeatureRef("other", 5)]) as planner:
        edits = [edit("sae", 3, Add(2.0)), edit("other", 3, Scale(2.0), Phase.GENERATED)]
        top = wish(planner, top_k=2, top_k_saes=("sae",))
        waits = replace(
            edit("sae", 4, Add(1.0)), schedule=Schedule(at_most=2), condition=when(FeatureRef("other", 1))
        )
        waits = replace(waits, target=FeatureRef("other", 4))
        wishes = {"a": wish(planner, edits), "b": top, "c": wish(planner, [waits])}
        first = planner.plan(decode(4), wishes)

        assert planner.plan(decode(5, token_ids=(7, 8, 9)), wishes) is first
        assert planner.plan(decode(6, "acb"), wishes) is not first
        assert planner.plan(decode(7)[:2], wishes) is not first
        assert planner.plan(decode(8), wishes) is not first


def test_what_is_done_follows_order_tokens_and_time(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    ramped = replace(edit("sae", 3, Add(4.0), Phase.GENERATED), schedule=Schedule(ramp=4))
    by_token = replace(edit("sae", 3, Add(8.0)), scope=Scope(token_ids=frozenset({9})))
    with planning(tiny_host, saes) as planner:
        wishes = {"a": wish(planner, [ramped]), "b": wish(planner, [by_token]), "c": wish(planner)}

        moved = [
            row_edits(planner, tiny_host, spans, wishes)
            for spans in (
                decode(4),
                decode(5),
                decode(6, "bac", (9, 9, 9)),
                decode(7, "bac", (9, IM_START, 9)),
                decode(8, "bac", (9, 9, 9)),
            )
        ]

    # Directions are unit vectors, so a row moves by the strength.
    assert moved == [[1.0, 0, 0], [2.0, 0, 0], [8.0, 3.0, 0], [8.0, 0, 0], [8.0, 4.0, 0]]


def when(target: FeatureRef, above: float = 0.0) -> Condition:
    return Condition(((FeatureTest(target=target, above=above, release_below=above),),))


@pytest.mark.parametrize("edited", ["early", "late"])
def test_a_feature_gates_edits_of_its_own_row_at_its_point_and_later(
    tiny_host: HostModel, edited: str
) -> None:
    points = {"early": FIRST_POINT, "late": SECOND_POINT}
    saes = serve(tiny_host, points)
    z = saes.get("early").sae.encode(rows_at(tiny_host, FIRST_POINT))[:, 5]
    above = float(z[12:].median())
    plain = rows_at(tiny_host, points[edited])
    gated = replace(edit(edited, 3, Add(2.0), special=True), condition=when(FeatureRef("early", 5), above))
    with planning(tiny_host, saes) as planner:
        wishes = {"a": wish(planner), "b": wish(planner), "c": wish(planner, [gated])}
        plan = planner.plan(SPANS, wishes)
        got = rows_at(tiny_host, points[edited])

        fires = [row for row in range(13, 18) if z[row] > above]  # the very first row never does
        assert 0 < len(fires) < 5
        others = [row for row in range(18) if row not in fires]
        assert torch.equal(got[others], plain[others])
        expected = plain[fires] + 2 * saes.get(edited).sae.W_dec[3]
        torch.testing.assert_close(got[fires], expected, atol=TOLERANCE, rtol=TOLERANCE)
        amounts = plan.points[points[edited]].edits_done.amounts
        assert amounts is not None
        assert amounts[:, 0].nonzero().flatten().tolist() == fires


def test_conditions_gate_reconstructions_and_lengths(tiny_host: HostModel) -> None:
    plain = rows_at(tiny_host, FIRST_POINT)
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    sae = saes.get("sae").sae
    z = sae.encode(plain)[:, 5]
    above = float(z[13:].median())
    condition = when(FeatureRef("sae", 5), above)
    whole = Intervention(target=WholeSae("sae"), operation=Reconstruct(), condition=condition)
    kept = replace(edit("sae", 3, Add(9.0)), preserve_norm=True, condition=condition)
    with planning(tiny_host, saes) as planner:
        edits = [kept, edit("sae", 4, Add(1.0))]
        planner.plan(SPANS, {"a": wish(planner, [whole]), "b": wish(planner), "c": wish(planner, edits)})
        got = rows_at(tiny_host, FIRST_POINT)

    fires = z > above
    decoded = sae.decode(sae.encode(plain))
    for row in range(1, 6):
        expected = decoded[row] if fires[row] else plain[row]
        torch.testing.assert_close(got[row], expected, atol=TOLERANCE, rtol=TOLERANCE)
    for row in range(13, 18):
        moved = plain[row] + sae.W_dec[4]
        if fires[row]:
            moved = moved + 9 * sae.W_dec[3]
            moved = moved * plain[row].norm() / moved.norm()
        torch.testing.assert_close(got[row], moved, atol=TOLERANCE, rtol=TOLERANCE)
    assert 0 < fires[13:].sum() < 5


def test_at_most_counts_rows_across_steps_and_anew_for_a_slots_next_request(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    three = replace(edit("sae", 3, Add(4.0), Phase.GENERATED), schedule=Schedule(at_most=3))
    with planning(tiny_host, saes) as planner:
        for _ in range(2):
            wishes = {"a": wish(planner), "b": wish(planner, [three]), "c": wish(planner)}
            moved = []
            for position in (4, 5, 6, 7):
                planner.plan(decode(position), dict.fromkeys("abc", wishes["a"]))
                plain = host_rows(tiny_host)
                planner.plan(decode(position), wishes)
                moved.append(round(float((host_rows(tiny_host) - plain)[1].norm()), 4))
            assert moved == [4.0, 4.0, 4.0, 0.0]
            for request in wishes.values():
                planner.release(request)


def host_rows(host: HostModel) -> Tensor:
    return host.activations(torch.tensor([[1, 2, 3]]), None, [FIRST_POINT])[FIRST_POINT][0]


def test_a_switch_keeps_slot_readings_and_the_state_of_triggers(tiny_host: HostModel) -> None:
    saes = serve(tiny_host, {"sae": FIRST_POINT, "late": SECOND_POINT})
    # Once a row was seen, which the first never is.
    ever = Condition(((FeatureTest(target=FeatureRef("late", 1), above=-1.0, release_below=-inf),),))
    never_off = replace(ever.any_of[0][0], target=FeatureRef("sae", 2))
    before = replace(edit("sae", 3, Add(2.0)), condition=Condition(((never_off,),)))
    never = when(FeatureRef("sae", 2), 1e9)
    after = [edit("late", 7, Add(3.0)), replace(edit("sae", 8, Add(1.0)), condition=never)]
    switch = Switch("after", tuple(after))
    trigger = Trigger("once", ever, switch)
    steering = Steering(interventions=(before,), triggers=(trigger,))
    with planning(tiny_host, saes) as planner:
        first = planner.resolve(prompt_ids=TOKENS[0][:4], steering=steering)
        rest = {"b": wish(planner), "c": wish(planner)}
        plan = planner.plan(SPANS, {"a": first} | rest)
        rows_at(tiny_host, SECOND_POINT)
        bits = plan.bits()
        assert bits is not None
        assert bits.tolist() == [0] + [0b11] * 5 + [0] * 12

        switched = planner.switch(
            first,
            replace(steering, interventions=tuple(after)),
            prompt_ids=TOKENS[0][:4],
            first_position=6,
            numbers=steering.numbers_after(switch),
        )
        assert [edit.number for edit in switched.edits] == [1, 2]
        # At the very first position no test is moved, so what is on was kept.
        spans = [RowSpan(name, row, 0, [1]) for row, name in enumerate("abc")]
        plan = planner.plan(spans, {"a": switched} | rest)
        tiny_host.activations(torch.tensor([[1, 1, 1]]), None, [SECOND_POINT])
        bits = plan.bits()
        assert bits is not None
        assert bits.tolist() == [0b01, 0, 0]
        assert (switched.slot, switched.by_sae) == (first.slot, first.by_sae)
        assert {reads.features for reads in switched.by_sae} == {(3, 8), (7,)}
        assert plan_moves(tiny_host, planner, {"a": switched} | rest) == [0.0, 3.0]
        planner.release(switched)
        plan = planner.plan(decode(7), {"a": wish(planner)} | rest)
        assert plan.points == {}


def plan_moves(host: HostModel, planner: StepPlanner, wishes: Mapping[str, RequestWishes]) -> list[float]:
    """How far the first request's generated row is moved at both points."""

    def rows() -> list[Tensor]:
        points = [FIRST_POINT, SECOND_POINT]
        found = host.activations(torch.tensor([[1, 2, 3]]), None, points)
        return [found[point][0, 0] for point in points]

    planner.plan(decode(6), dict.fromkeys(wishes, wishes["b"]))
    plain = rows()
    planner.plan(decode(6), wishes)
    return [round(float((a - b).norm()), 4) for a, b in zip(rows(), plain, strict=True)]


def test_a_direction_is_edited_where_no_sae_reads(tiny_host: HostModel) -> None:
    point = HookPoint(1, "resid_pre")
    plain = rows_at(tiny_host, point)
    values = torch.randn(32, generator=torch.Generator().manual_seed(3))
    direction = unit_direction(str(point), values.tolist())
    with planning(tiny_host, serve(tiny_host, {"sae": SECOND_POINT})) as planner:
        ablate = Intervention(target=direction, operation=Ablate())
        plan = planner.plan(SPANS, {"a": wish(planner, [ablate]), "b": wish(planner), "c": wish(planner)})
        got = rows_at(tiny_host, point)

    unit = values / values.norm()
    torch.testing.assert_close(got[:6] @ unit, torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(got[:6], plain[:6] - (plain[:6] @ unit).outer(unit), atol=1e-5, rtol=0)
    assert torch.equal(got[6:], plain[6:])
    assert list(rows_by_edit(plan.layout.edits[point].cells).values()) == [list(range(6))]


def test_a_reconstruction_takes_the_rows_place_and_edits_come_on_top(tiny_host: HostModel) -> None:
    plain = rows_at(tiny_host, FIRST_POINT)
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    sae = saes.get("sae").sae
    whole = Intervention(target=WholeSae("sae"), operation=Reconstruct())
    with planning(tiny_host, saes) as planner:
        wishes = {
            "a": wish(planner, [whole]),
            "b": wish(planner),
            "c": wish(planner, [edit("sae", 3, Add(2.0)), replace(whole, schedule=Schedule(ramp=12))]),
        }
        planner.plan(SPANS, wishes)
        got = rows_at(tiny_host, FIRST_POINT)

    decoded = sae.decode(sae.encode(plain))
    torch.testing.assert_close(got[:6], decoded[:6], atol=TOLERANCE, rtol=TOLERANCE)
    assert torch.equal(got[6:12], plain[6:12])
    share = torch.arange(1, 7).unsqueeze(1) / 12
    expected = plain[12:] + share * (decoded[12:] - plain[12:]) + 2 * sae.W_dec[3]
    torch.testing.assert_close(got[12:], expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_edits_that_keep_a_rows_length_turn_it(tiny_host: HostModel) -> None:
    plain = rows_at(tiny_host, FIRST_POINT)
    saes = serve(tiny_host, {"sae": FIRST_POINT})
    kept = replace(edit("sae", 3, Add(20.0), Phase.PROMPT), preserve_norm=True)
    with planning(tiny_host, saes) as planner:
        interventions = [kept, edit("sae", 4, Add(5.0))]
        planner.plan(SPANS, {"a": wish(planner, interventions), "b": wish(planner), "c": wish(planner)})
        got = rows_at(tiny_host, FIRST_POINT)

    torch.testing.assert_close(got[:4].norm(dim=1), plain[:4].norm(dim=1), atol=TOLERANCE, rtol=TOLERANCE)
    W_dec = saes.get("sae").sae.W_dec
    free = plain[:4] + 20 * W_dec[3] + 5 * W_dec[4]
    assert (torch.nn.functional.cosine_similarity(got[:4], free) > 1 - 1e-5).all()
    torch.testing.assert_close(got[4:6], plain[4:6] + 5 * W_dec[4], atol=TOLERANCE, rtol=TOLERANCE)
    assert torch.equal(got[6:], plain[6:])


def test_slots_are_given_again_and_never_shared(tiny_host: HostModel) -> None:
    with planning(tiny_host, serve(tiny_host, {"sae": FIRST_POINT})) as planner:
        first, second, third = (wish(planner) for _ in range(3))
        planner.release(second)
        again, fourth = wish(planner), wish(planner)

    assert len({first.slot, third.slot, again.slot, fourth.slot}) == 4
    assert again.slot == second.slot
