"""On which rows of a probe an intervention is made, and how strongly: asked of each row in its turn.

Written from the words of the wire contract. It shares nothing with steerd.steering but the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steerd.selftest.probes import Probe
from steerd.steering.intervention import Condition, FeatureTest, Intervention
from steerd.steering.scope import Phase


class NaiveRows:
    """The rows of one probe, from its prompt's first to its continuation's last but one."""

    def __init__(self, probe: Probe, special_ids: frozenset[int]) -> None:
        self._ids = probe.row_ids
        self._num_prompt = len(probe.prompt_ids)
        self._special_ids = special_ids
        self._roles = probe.roles

    def strengths(self, edit: Intervention, seen: Mapping[FeatureTest, Sequence[float]]) -> list[float]:
        """How strong an edit is on each row, 0 for not at all; `seen` is what its condition's tests read."""
        holds = self._holds(edit.condition, seen)
        found: list[float] = []
        for position, condition_holds in enumerate(holds):
            strength = self._by_schedule(edit, position)
            if not (condition_holds and self._in_scope(edit, position)):
                strength = 0.0
            if edit.schedule.at_most and sum(earlier > 0 for earlier in found) >= edit.schedule.at_most:
                strength = 0.0
            found.append(strength)
        return found

    def fired(self, condition: Condition, seen: Mapping[FeatureTest, Sequence[float]]) -> list[int]:
        """The positions of the rows on which a trigger's condition comes to hold."""
        holds = self._holds(condition, seen)
        return [n for n, now in enumerate(holds) if now and not (n > 0 and holds[n - 1])]

    def _holds(self, condition: Condition | None, seen: Mapping[FeatureTest, Sequence[float]]) -> list[bool]:
        """Whether a condition holds, by row."""
        if condition is None:
            return [True] * len(self._ids)
        on = {test: self._is_on(test, seen[test]) for test in condition.tests}
        return [
            any(all(on[test][position] for test in clause) for clause in condition.any_of)
            for position in range(len(self._ids))
        ]

    def _is_on(self, test: FeatureTest, values: Sequence[float]) -> list[bool]:
        """Whether a test is on, by row."""
        found, is_on = [], False
        for position, value in enumerate(values):
            counts = position > 0 and self._ids[position] not in self._special_ids
            if counts or test.include_special_tokens:
                is_on = (is_on or value > test.above) and value > test.release_below
            found.append(is_on)
        return found

    def _since(self, edit: Intervention, position: int) -> int:
        """Rows from the first of its phase."""
        return position - self._num_prompt if edit.scope.phase is Phase.GENERATED else position

    def _in_scope(self, edit: Intervention, position: int) -> bool:
        scope, token_id, length = edit.scope, self._ids[position], self._num_prompt
        in_prompt = position < length
        return (
            (scope.phase is Phase.ALL or in_prompt == (scope.phase is Phase.PROMPT))
            and (scope.include_special_tokens or token_id not in self._special_ids)
            and (scope.first_n == 0 or self._since(edit, position) < scope.first_n)
            and (scope.last_n == 0 or length - scope.last_n <= position < length)
            and (not scope.roles or self._role(position) in scope.roles)
            and (not scope.positions or self._in_positions(edit, position))
            and (not scope.token_ids or token_id in scope.token_ids)
            and token_id not in scope.excluded_token_ids
        )

    def _role(self, position: int) -> str | None:
        """Whose message a row belongs to; what is generated is the assistant's."""
        if position >= self._num_prompt:
            return "assistant"
        return next((span.role for span in self._roles if span.start <= position < span.end), None)

    def _in_positions(self, edit: Intervention, position: int) -> bool:
        """Positions below zero count from the prompt's end."""
        for stretch in edit.scope.positions:
            start = stretch.start if stretch.start >= 0 else stretch.start + self._num_prompt
            end = len(self._ids) if stretch.end is None else stretch.end
            if start <= position < (end if end >= 0 else end + self._num_prompt):
                return True
        return False

    def _by_schedule(self, edit: Intervention, position: int) -> float:
        schedule = edit.schedule
        step = self._since(edit, position) - schedule.start_after
        if step < 0:
            return 0.0
        if step < schedule.ramp:
            return (step + 1) / schedule.ramp
        after = step - max(schedule.ramp - 1, 0)
        return 0.5 ** (after / schedule.half_life) if schedule.half_life else 1.0
