"""Triggers of a request, each checked by itself and against each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steerd.config import LimitsConfig
from steerd.pb.v1 import steering_pb2 as pb
from steerd.server.parse_condition import ConditionParser
from steerd.server.violations import Violations
from steerd.steering.trigger import Flag, Stop, Trigger

_NAME = re.compile(r"[a-z0-9_-]{1,40}")


@dataclass(frozen=True, slots=True)
class TriggerParser:
    """Parses triggers, recording every broken rule and unknown name."""

    conditions: ConditionParser
    limits: LimitsConfig
    violations: Violations

    def triggers(self, messages: Sequence[pb.Trigger], field: str) -> tuple[Trigger, ...]:
        """The triggers that break no rule, bounds in activation units."""
        must, limit = self.violations.must, self.limits.max_triggers
        if not self.violations.must_be_at_most(field, len(messages), limit, "triggers"):
            return ()
        parsed = []
        for place, message in enumerate(messages):
            name = f"{field}[{place}].name"
            must(
                _NAME.fullmatch(message.name) is not None, name, f"of the form {_NAME.pattern}", message.name
            )
            earlier = [other.name for other in messages[:place]]
            must(message.name not in earlier, name, "unlike those before it", message.name)
            parsed.append(self._trigger(message, f"{field}[{place}]"))
        return tuple(trigger for trigger in parsed if trigger is not None)

    def _trigger(self, message: pb.Trigger, field: str) -> Trigger | None:
        self.violations.must(not message.source, f"{field}.source", "left to the server", message.source)
        condition = self.conditions.condition(message.when, f"{field}.when")
        match message.WhichOneof("action"):
            case "stop":
                action: Stop | Flag = Stop()
            case "flag":
                action = Flag()
            case _:
                self.violations.add(f"{field}.action", "one of stop and flag is required")
                return None
        return None if condition is None else Trigger(message.name, condition, action)
