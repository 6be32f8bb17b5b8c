"""Scope and schedule as factors, against their definitions taken word by word, for any cut into steps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from steerd.steering.coverage import Coverage
from steerd.steering.scope import Phase, PositionRange, RoleSpan, Schedule, Scope

SPECIAL = frozenset({7, 9})
PROMPT = [7, 1, 2, 9, 3]
NO_SCHEDULE = Schedule()
ROLES = [RoleSpan("user", 1, 3)]


def covered(
    scope: Scope, position: int, token_id: int, prompt_length: int, roles: Sequence[RoleSpan]
) -> bool:
    """The definition of a scope, for one row."""
    in_prompt = position < prompt_length
    since = position - prompt_length if scope.phase is Phase.GENERATED else position
    role = "assistant"
    if in_prompt:
        role = next((span.role for span in roles if span.start <= position < span.end), "nobody")
    tests = [
        token_id not in SPECIAL or scope.include_special_tokens,
        scope.phase is Phase.ALL or (scope.phase is Phase.PROMPT) == in_prompt,
        scope.first_n == 0 or since < scope.first_n,
        scope.last_n == 0 or position in range(prompt_length)[-scope.last_n :],
        not scope.positions
        or any(position in range(10**6)[resolved(r, prompt_length)] for r in scope.positions),
        not scope.token_ids or token_id in scope.token_ids,
        token_id not in scope.excluded_token_ids,
        not scope.roles or role in scope.roles,
    ]
    return all(tests)


def resolved(stretch: PositionRange, prompt_length: int) -> slice:
    start = stretch.start if stretch.start >= 0 else max(prompt_length + stretch.start, 0)
    end = stretch.end
    if end is not None and end < 0:
        end = max(prompt_length + end, 0)
    return slice(start, end)


def strength(schedule: Schedule, since: int) -> float:
    """The definition of a schedule, row by row from the first of the phase."""
    if since < schedule.start_after:
        return 0.0
    value, ramped = 0.0, 0
    for _ in range(schedule.start_after, since + 1):
        if ramped < max(schedule.ramp, 1):
            ramped += 1
            value = ramped / max(schedule.ramp, 1)
        elif schedule.half_life:
            value *= 0.5 ** (1 / schedule.half_life)
    return value


def expected(
    scope: Scope, schedule: Schedule, ids: Sequence[int], prompt_length: int, roles: Sequence[RoleSpan]
) -> list[float]:
    factors = []
    for position, token_id in enumerate(ids):
        since = position - prompt_length if scope.phase is Phase.GENERATED else position
        here = covered(scope, position, token_id, prompt_length, roles)
        factor = strength(schedule, since) if here and since >= 0 else 0.0
        factors.append(factor)
    return factors


def in_chunks(
    chance: random.Random, coverage: Coverage, ids: Sequence[int], prompt_length: int
) -> list[float]:
    """Asked as an engine asks: the prompt in chunks, then a token at a time."""
    found: list[float] = []
    while len(found) < len(ids):
        start = len(found)
        end = min(start + chance.randint(1, 5), prompt_length) if start < prompt_length else start + 1
        found += coverage.factors(start, ids[start:end]).tolist()
    return found


def random_scope(chance: random.Random) -> Scope:
    def maybe(value: object, otherwise: object) -> object:
        return value if chance.random() < 0.3 else otherwise

    phase = chance.choice(list(Phase))
    stretches = tuple(
        PositionRange(chance.randint(-9, 9), chance.choice([None, chance.randint(-9, 20)]))
        for _ in range(chance.randint(1, 2))
    )
    return Scope(
        phase=phase,
        include_special_tokens=chance.random() < 0.5,
        first_n=maybe(chance.randint(1, 12), 0),  # type: ignore[arg-type]
        last_n=maybe(chance.randint(1, 12), 0) if phase is Phase.PROMPT else 0,  # type: ignore[arg-type]
        positions=maybe(stretches, ()),  # type: ignore[arg-type]
        token_ids=maybe(frozenset(chance.sample(range(10), 5)), frozenset()),  # type: ignore[arg-type]
        excluded_token_ids=maybe(frozenset(chance.sample(range(10), 3)), frozenset()),  # type: ignore[arg-type]
        roles=maybe(tuple(chance.sample(["system", "user", "assistant"], 2)), ()),  # type: ignore[arg-type]
    )


def random_schedule(chance: random.Random) -> Schedule:
    if chance.random() < 0.4:
        return Schedule()
    return Schedule(
        start_after=chance.choice([0, 0, 1, 6]),
        ramp=chance.choice([0, 1, 2, 5]),
        half_life=chance.choice([0.0, 0.5, 3.0]),
    )


@pytest.mark.parametrize("seed", range(4))
def test_factors_are_those_of_the_definitions_however_the_prompt_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    some, none = 0, 0
    for _ in range(250):
        scope, schedule = random_scope(chance), random_schedule(chance)
        prompt_length, generated = chance.randint(1, 20), chance.choice([0, 3, 12, 150])
        ids = [chance.randrange(10) for _ in range(prompt_length + generated)]
        cuts = sorted(chance.randrange(prompt_length + 1) for _ in range(4))
        roles = [RoleSpan("user", *cuts[:2]), RoleSpan(chance.choice(["system", "assistant"]), *cuts[2:])]
        coverage = Coverage(scope, schedule, prompt_ids=ids[:prompt_length], roles=roles, special_ids=SPECIAL)

        found = in_chunks(chance, coverage, ids, prompt_length)

        wanted = expected(scope, schedule, ids, prompt_length, roles)
        assert found == pytest.approx(wanted, abs=1e-6), (scope, schedule)
        if coverage.is_steady:
            rows = list(zip(ids, found, strict=True))[prompt_length:]
            assert len({(token_id in SPECIAL, factor) for token_id, factor in rows}) <= 2
        some, none = some + any(wanted), none + (not any(wanted))
    assert some > 50
    assert none > 20


def factors(scope: Scope, schedule: Schedule = NO_SCHEDULE, generated: Sequence[int] = ()) -> list[float]:
    coverage = Coverage(
        scope,
        schedule,
        prompt_ids=PROMPT,
        roles=[RoleSpan("user", 1, 3), RoleSpan("system", 4, 5)],
        special_ids=SPECIAL,
    )
    ids = [*PROMPT, *generated]
    return coverage.factors(0, ids).tolist()


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        (Scope(), [0, 1, 1, 0, 1, 1, 0]),
        (Scope(include_special_tokens=True), [1, 1, 1, 1, 1, 1, 1]),
        (Scope(phase=Phase.PROMPT), [0, 1, 1, 0, 1, 0, 0]),
        (Scope(phase=Phase.GENERATED, first_n=1), [0, 0, 0, 0, 0, 1, 0]),
        (Scope(first_n=2), [0, 1, 0, 0, 0, 0, 0]),
        (Scope(phase=Phase.PROMPT, last_n=2), [0, 0, 0, 0, 1, 0, 0]),
        (Scope(positions=(PositionRange(-1),)), [0, 0, 0, 0, 1, 1, 0]),
        (Scope(positions=(PositionRange(-4, -3), PositionRange(5, 6))), [0, 1, 0, 0, 0, 1, 0]),
        (Scope(token_ids=frozenset({2, 7})), [0, 0, 1, 0, 0, 0, 0]),
        (Scope(excluded_token_ids=frozenset({2})), [0, 1, 0, 0, 1, 1, 0]),
        (Scope(roles=("user",)), [0, 1, 1, 0, 0, 0, 0]),
        (Scope(roles=("assistant", "system")), [0, 0, 0, 0, 1, 1, 0]),
    ],
    ids=str,
)
def test_a_scope_by_hand(scope: Scope, wanted: list[float]) -> None:
    assert factors(scope, generated=[4, 9]) == wanted


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (Schedule(), [1, 1, 1, 1, 1]),
        (Schedule(start_after=2), [0, 0, 1, 1, 1]),
        (Schedule(ramp=4), [0.25, 0.5, 0.75, 1, 1]),
        (Schedule(start_after=1, ramp=2), [0, 0.5, 1, 1, 1]),
        (Schedule(half_life=1), [1, 0.5, 0.25, 0.125, 0.0625]),
        (Schedule(ramp=2, half_life=2), [0.5, 1, 0.5**0.5, 0.5, 0.5**1.5]),
    ],
    ids=str,
)
def test_a_schedule_by_hand(schedule: Schedule, wanted: list[float]) -> None:
    scope = Scope(phase=Phase.GENERATED)

    assert factors(scope, schedule, generated=[1, 2, 3, 4, 5])[5:] == pytest.approx(wanted)


def test_special_rows_pass_time() -> None:
    found = factors(Scope(phase=Phase.GENERATED), Schedule(ramp=4), generated=[1, 9, 2, 3])

    assert found[5:] == pytest.approx([0.25, 0, 0.75, 1])


@pytest.mark.parametrize("origin", [5, 8, 100])
def test_time_begins_at_the_origin(origin: int) -> None:
    def coverage(scope: Scope, schedule: Schedule) -> Coverage:
        return Coverage(scope, schedule, prompt_ids=PROMPT, roles=[], special_ids=SPECIAL, origin=origin)

    ids = [1, 2, 9, 3, 4]
    for phase in (Phase.ALL, Phase.GENERATED):
        assert coverage(Scope(phase=phase), Schedule(ramp=4)).factors(origin, ids).tolist() == [
            0.25,
            0.5,
            0,
            1,
            1,
        ]
        assert coverage(Scope(phase=phase), NO_SCHEDULE).factors(origin, ids).tolist() == [1, 1, 0, 1, 1]
    assert coverage(Scope(phase=Phase.PROMPT), NO_SCHEDULE).factors(origin, ids).tolist() == [0] * 5
    first = coverage(Scope(phase=Phase.GENERATED, first_n=2), NO_SCHEDULE).factors(origin, ids)
    assert first.tolist() == ([1, 1, 0, 0, 0] if origin == 5 else [0] * 5), "a scope counts from its phase"


def test_only_what_a_special_token_decides_is_steady() -> None:
    def is_steady(scope: Scope, schedule: Schedule = NO_SCHEDULE) -> bool:
        return Coverage(scope, schedule, prompt_ids=PROMPT, roles=[], special_ids=SPECIAL).is_steady

    assert is_steady(Scope())
    assert is_steady(Scope(roles=("user",), phase=Phase.GENERATED))
    assert is_steady(replace(Scope(phase=Phase.PROMPT), last_n=2), Schedule(ramp=3))
    for scope in (Scope(first_n=9), Scope(token_ids=frozenset({1})), Scope(positions=(PositionRange(0),))):
        assert not is_steady(scope)
    assert not is_steady(Scope(), Schedule(start_after=1))
    assert is_steady(Scope(), Schedule(at_most=1)), "for the forward to judge"


@pytest.mark.parametrize("seed", range(40))
def test_it_reaches_what_some_tokens_could_be_given(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        scope, schedule = random_scope(chance), random_schedule(chance)
        num_generated = chance.randint(0, 4)
        coverage = Coverage(scope, schedule, prompt_ids=PROMPT, roles=ROLES, special_ids=SPECIAL)

        same_token_always = (
            expected(scope, schedule, [*PROMPT, *[token] * num_generated], len(PROMPT), ROLES)
            for token in range(10)
        )
        assert coverage.reaches(num_generated) == any(max(factors) > 0 for factors in same_token_always)


@pytest.mark.parametrize(
    ("scope", "reached"),
    [
        (Scope(phase=Phase.GENERATED, token_ids=frozenset({7, 9})), False),
        (Scope(phase=Phase.GENERATED, token_ids=frozenset({7, 5})), True),
        (Scope(phase=Phase.GENERATED, token_ids=frozenset({7}), include_special_tokens=True), True),
        (Scope(token_ids=frozenset({5}), excluded_token_ids=frozenset({5})), False),
    ],
)
def test_tokens_that_are_never_taken_are_not_reached(scope: Scope, reached: bool) -> None:
    coverage = Coverage(scope, NO_SCHEDULE, prompt_ids=PROMPT, roles=ROLES, special_ids=SPECIAL)

    assert coverage.reaches(3) is reached
