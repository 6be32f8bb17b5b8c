"""Conditions and triggers in the plainest form: row by row, with a boolean for each test.

Written from the words of the wire contract, sharing no code with steerd.steering beyond its data.
"""

from __future__ import annotations

from steerd.engine.request import GenerationRequest
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Condition, FeatureTest, Intervention
from steerd.steering.trigger import Stop, Switch


class PlainConditions:
    """How the tests of one request stand on each of its rows, and what its triggers made of that."""

    def __init__(self, host: HostModel, request: GenerationRequest, ids: list[int]) -> None:
        self._special = host.special_token_ids
        self._triggers = request.steering.triggers
        self._interventions = request.steering.interventions
        self._prompt_length = len(request.prompt_ids)
        self._ids = ids
        own = [i.condition for i in self._interventions] + [t.condition for t in self._triggers]
        brought = [i.condition for trigger in self._triggers for i in trigger.brings]
        # By test and whether a switch brings it: such a test begins with the switch. Tests alike stand alike.
        self._on: dict[tuple[FeatureTest, bool], list[bool]] = {
            (test, is_brought): []
            for is_brought, conditions in ((False, own), (True, brought))
            for condition in conditions
            if condition is not None
            for test in condition.tests
        }

    @property
    def tests(self) -> set[FeatureTest]:
        """All that is to be seen of each row."""
        return {test for test, _ in self._on}

    def see(self, test: FeatureTest, z: float) -> None:
        """Take what a test sees on the next row."""
        for is_brought in (False, True):
            rows = self._on.get((test, is_brought))
            if rows is None:
                continue
            position = len(rows)
            is_on = rows[-1] if rows else False
            extraordinary = position == 0 or self._ids[position] in self._special
            if test.include_special_tokens or not extraordinary:
                if z > test.above:
                    is_on = True
                if z <= test.release_below:
                    is_on = False
            rows.append(is_on and not (is_brought and self.in_force(position)[1] == 0))

    def holds(self, condition: Condition | None, position: int, *, is_brought: bool = False) -> bool:
        """Whether a condition holds on a row."""
        if condition is None:
            return True
        return any(
            all(self._on[test, is_brought][position] for test in clause) for clause in condition.any_of
        )

    def fired(self, num_rows: int) -> list[tuple[str, int]]:
        """Each trigger and the positions on which its condition came to hold, in order of position."""
        found = []
        for position in range(num_rows):
            for trigger in self._triggers:
                before = position > 0 and self.holds(trigger.condition, position - 1)
                if self.holds(trigger.condition, position) and not before:
                    found.append((trigger.name, position))
        return found

    def stops_at(self, num_rows: int) -> int | None:
        """The position on which a trigger ends the text, if one does."""
        stops = {trigger.name for trigger in self._triggers if isinstance(trigger.action, Stop)}
        return next((position for name, position in self.fired(num_rows) if name in stops), None)

    def in_force(self, position: int) -> tuple[tuple[Intervention, ...], int]:
        """What is done on a row, and since which position if a switch brought it, else 0."""
        actions = {trigger.name: trigger.action for trigger in self._triggers}
        if position >= self._prompt_length:
            for name, fired_at in self.fired(position):
                action = actions[name]
                if isinstance(action, Switch):
                    stays = [edit for edit in self._interventions if edit.source.startswith("policy:")]
                    return (*action.interventions, *stays), max(fired_at + 1, self._prompt_length)
        return self._interventions, 0
