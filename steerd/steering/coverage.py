"""How strong an intervention is on each row of one request: its scope and its schedule, as factors.

A factor depends on a row's position and token alone, so where a prompt is cut into steps does not matter.
What depends on the rows themselves, conditions and `Schedule.at_most`, is for the forward to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from steerd.steering.scope import Phase, PositionRange, RoleSpan, Schedule, Scope

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_AHEAD = 64  # generated rows whose positions are judged at once


class Coverage:
    """The factors of one intervention over one request's rows: 0 outside of its scope.

    `is_steady` says that on generated rows they depend on nothing but whether the token is special.
    """

    def __init__(
        self,
        scope: Scope,
        schedule: Schedule,
        *,
        prompt_ids: Sequence[int],
        roles: Sequence[RoleSpan],
        special_ids: frozenset[int],
        origin: int = 0,
    ) -> None:
        """Only rows from position `origin` on are asked for, and no schedule's time begins before it."""
        self._scope = scope
        self._schedule = schedule
        self._prompt_length = len(prompt_ids)
        self._roles = [span for span in roles if span.role in scope.roles]
        self._special_ids = frozenset() if scope.include_special_tokens else special_ids
        self.is_steady = scope.phase is Phase.PROMPT or _is_steady(scope, schedule)
        self._origin = origin
        self._ahead_from = max(self._prompt_length, origin)
        self._ahead = self._by_position(self._ahead_from, _AHEAD)
        tokens = np.fromiter(map(self._takes, prompt_ids), dtype=np.bool_, count=len(prompt_ids))
        self._prompt = np.where(tokens, self._by_position(0, len(prompt_ids)), 0).astype(np.float32)

    @property
    def prompt(self) -> Floats:
        """The factors of the prompt's rows, [prompt]."""
        return self._prompt

    def factors(self, first_position: int, token_ids: Sequence[int]) -> Floats:
        """The factors of consecutive rows, [rows]."""
        prompt = self._prompt[first_position : first_position + len(token_ids)]
        generated = [
            self._generated(first_position + offset, token_ids[offset])
            for offset in range(len(prompt), len(token_ids))
        ]
        return np.concatenate([prompt, np.array(generated, dtype=np.float32)])

    def reaches(self, num_generated: int) -> bool:
        """Whether a row of the prompt has a factor above 0, or could have one of as many generated ones."""
        if self._prompt.any():
            return True
        tokens = self._scope.token_ids
        takes_some = not tokens or any(map(self._takes, tokens))
        return takes_some and bool(self._by_position(self._prompt_length, num_generated).any())

    def _generated(self, position: int, token_id: int) -> float:
        if not self._takes(token_id):
            return 0.0
        if self.is_steady:
            return float(self._ahead[0])
        if position >= self._ahead_from + _AHEAD:
            self._ahead_from, self._ahead = position, self._by_position(position, _AHEAD)
        return float(self._ahead[position - self._ahead_from])

    def _takes(self, token_id: int) -> bool:
        scope = self._scope
        return (
            token_id not in self._special_ids
            and token_id not in scope.excluded_token_ids
            and (not scope.token_ids or token_id in scope.token_ids)
        )

    def _by_position(self, first: int, count: int) -> Floats:
        """The factors of rows whose tokens are in scope."""
        scope, prompt_length = self._scope, self._prompt_length
        positions = np.arange(first, first + count, dtype=np.int64)
        in_prompt = positions < prompt_length
        start = prompt_length if scope.phase is Phase.GENERATED else 0
        covered = np.ones(count, dtype=np.bool_)
        if scope.phase is not Phase.ALL:
            covered &= in_prompt if scope.phase is Phase.PROMPT else ~in_prompt
        if scope.first_n:
            covered &= positions - start < scope.first_n
        if scope.last_n:
            covered &= in_prompt & (positions >= prompt_length - scope.last_n)
        if scope.positions:
            covered &= np.any([_within(r, positions, prompt_length) for r in scope.positions], axis=0)
        if scope.roles:
            covered &= self._spoken(positions, in_prompt)
        strengths = strength(self._schedule, positions - max(start, self._origin))
        return np.where(covered, strengths, 0).astype(np.float32)

    def _spoken(self, positions: Ints, in_prompt: Bools) -> Bools:
        """Whether rows belong to a message of the scope's roles."""
        spoken = ~in_prompt if "assistant" in self._scope.roles else np.zeros_like(in_prompt)
        for span in self._roles:
            spoken |= (positions >= span.start) & (positions < span.end)
        return spoken


def strength(schedule: Schedule, since: Ints) -> NDArray[np.float64]:
    """How strong an intervention is on rows `since` [rows] of its phase, between 0 and 1."""
    step = since - schedule.start_after + 1
    ramp = max(schedule.ramp, 1)
    factors = np.clip(step / ramp, 0.0, 1.0)
    if schedule.half_life:
        factors = factors * 0.5 ** (np.maximum(step - ramp, 0) / schedule.half_life)
    return factors


def _is_steady(scope: Scope, schedule: Schedule) -> bool:
    by_row = scope.first_n or scope.positions or scope.token_ids or scope.excluded_token_ids
    return not by_row and replace(schedule, at_most=0) == Schedule()


def _within(positions: PositionRange, rows: Ints, prompt_length: int) -> Bools:
    def absolute(position: int) -> int:
        return position + prompt_length if position < 0 else position

    inside: Bools = rows >= absolute(positions.start)
    return inside if positions.end is None else inside & (rows < absolute(positions.end))
