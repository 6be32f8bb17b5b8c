"""Conditions, of interventions and of triggers, each checked by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from steerd.host.hook_point import HookPoint
from steerd.pb.v1 import steering_pb2 as pb
from steerd.server.parse_magnitude import MagnitudeParser
from steerd.server.parse_target import TargetParser
from steerd.server.violations import Violations
from steerd.steering.intervention import Condition, Direction, FeatureRef, FeatureTest
from steerd.steering.lane_tables import MAX_CLAUSES

MAX_TESTS_OF_A_CLAUSE = 8

M = TypeVar("M", pb.Clause, pb.FeatureTest)


def num_tested_values(message: pb.Condition) -> int:
    """How many values the directions have that are tested."""
    return sum(len(test.direction.values) for clause in message.any_of for test in clause.all_of)


@dataclass(frozen=True, slots=True)
class ConditionParser:
    """Parses conditions, recording every broken rule and unknown name."""

    targets: TargetParser
    magnitudes: MagnitudeParser
    violations: Violations

    def condition(
        self, message: pb.Condition, field: str, known_at: HookPoint | None = None
    ) -> Condition | None:
        """The condition, bounds in activation units; None when a violation was recorded.

        Its tests must be known at a hook point, if one is given: in a forward that has come there.
        """
        clauses = [
            self._clause(clause, f"{field}.any_of[{place}]", known_at)
            for place, clause in enumerate(
                self._some(message.any_of, MAX_CLAUSES, f"{field}.any_of", "clauses")
            )
        ]
        whole = [clause for clause in clauses if clause]
        return Condition(tuple(whole)) if whole and len(whole) == len(message.any_of) else None

    def _clause(
        self, message: pb.Clause, field: str, known_at: HookPoint | None
    ) -> tuple[FeatureTest, ...] | None:
        tests = [
            self._test(test, f"{field}.all_of[{place}]", known_at)
            for place, test in enumerate(
                self._some(message.all_of, MAX_TESTS_OF_A_CLAUSE, f"{field}.all_of", "tests")
            )
        ]
        whole = [test for test in tests if test is not None]
        return tuple(whole) if len(whole) == len(message.all_of) else None

    def _some(self, messages: Sequence[M], limit: int, field: str, what: str) -> Sequence[M]:
        """The messages, if there are some and not too many."""
        few = self.violations.must_be_at_most(field, len(messages), limit, what)
        return messages if few and self.violations.must_not_be_empty(field, messages) else ()

    def _test(self, message: pb.FeatureTest, field: str, known_at: HookPoint | None) -> FeatureTest | None:
        target = self._target(message, field)
        above = self.magnitudes.magnitude(message.above, message.unit, target, f"{field}.above")
        release = self._release(message, target, above, field)
        if target is None or not self._is_known(target, known_at, field):
            return None
        return FeatureTest(
            target=target,
            above=above,
            release_below=release,
            include_special_tokens=message.include_special_tokens,
        )

    def _release(
        self, message: pb.FeatureTest, target: FeatureRef | Direction | None, above: float, field: str
    ) -> float:
        if not message.HasField("release_below"):
            return -inf if message.from_first else above
        name = f"{field}.release_below"
        if message.from_first:
            self.violations.add(name, "has no meaning with from_first, which never turns off")
        release = self.magnitudes.magnitude(message.release_below, message.unit, target, name)
        self.violations.must(not release > above, name, f"at most above, {above:.7g}", release)
        return release

    def _target(self, message: pb.FeatureTest, field: str) -> FeatureRef | Direction | None:
        match message.WhichOneof("target"):
            case "feature":
                return self.targets.feature(message.feature, f"{field}.feature")
            case "direction":
                return self.targets.direction(message.direction, f"{field}.direction")
            case _:
                self.violations.add(f"{field}.target", "one of feature and direction is required")
                return None

    def _is_known(self, target: FeatureRef | Direction, known_at: HookPoint | None, field: str) -> bool:
        tested_at = self.targets.saes.hook_point(target)
        if known_at is None or known_at.follows(tested_at):
            return True
        order = "does not come before" if tested_at.layer == known_at.layer else "comes after"
        self.violations.add(field, f"is at {tested_at}, which {order} {known_at}, where the edit is made")
        return False
