"""Triggers of a request, each checked by itself and against each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from steerd.config import LimitsConfig
from steerd.errors import NotFound
from steerd.pb.v1 import steering_pb2 as pb
from steerd.server.parse_condition import ConditionParser, num_tested_values
from steerd.server.preset_book import PresetBook
from steerd.server.violations import Violations
from steerd.steering.trigger import Flag, Stop, Switch, Trigger

_NAME = re.compile(r"[a-z0-9_-]{1,40}")


@dataclass(frozen=True, slots=True)
class PlacedTrigger:
    """A trigger, and the field of the request or the key of the configuration that asks for it."""

    place: str
    trigger: Trigger

    @property
    def name_place(self) -> str:
        """The field of its name: that of the preset, if one brings it."""
        return self.place if self.trigger.source else f"{self.place}.name"

    @property
    def switch_place(self) -> str:
        """The field of the preset that it switches to."""
        return self.place if self.trigger.source else f"{self.place}.switch.preset"


@dataclass(frozen=True, slots=True)
class TriggerParser:
    """Parses triggers, recording every broken rule and unknown name."""

    conditions: ConditionParser
    presets: PresetBook
    limits: LimitsConfig
    violations: Violations

    def triggers(
        self, messages: Sequence[pb.Trigger], field: str, *, values_besides: int = 0
    ) -> list[PlacedTrigger]:
        """The triggers that break no rule, bounds in activation units.

        `values_besides` are those of directions elsewhere in the same request.
        """
        must, must_be_at_most, limits = self.violations.must, self.violations.must_be_at_most, self.limits
        if not must_be_at_most(field, len(messages), limits.max_triggers, "triggers"):
            return []
        values = sum(num_tested_values(message.when) for message in messages)
        most = limits.max_direction_values
        if values and not must_be_at_most(field, values_besides + values, most, "values of directions"):
            return []
        parsed = []
        for place, message in enumerate(messages):
            name = f"{field}[{place}].name"
            must(
                _NAME.fullmatch(message.name) is not None, name, f"of the form {_NAME.pattern}", message.name
            )
            earlier = [other.name for other in messages[:place]]
            must(message.name not in earlier, name, "unlike those before it", message.name)
            if (trigger := self._trigger(message, f"{field}[{place}]")) is not None:
                parsed.append(PlacedTrigger(f"{field}[{place}]", trigger))
        return parsed

    def _trigger(self, message: pb.Trigger, field: str) -> Trigger | None:
        self.violations.must(not message.source, f"{field}.source", "left to the server", message.source)
        condition = self.conditions.condition(message.when, f"{field}.when")
        match message.WhichOneof("action"):
            case "stop":
                action: Stop | Switch | Flag | None = Stop()
            case "switch":
                action = self._switch(message.switch.preset, f"{field}.switch.preset")
            case "flag":
                action = Flag()
            case _:
                self.violations.add(f"{field}.action", "one of stop, switch and flag is required")
                return None
        return None if condition is None or action is None else Trigger(message.name, condition, action)

    def _switch(self, name: str, field: str) -> Switch | None:
        try:
            preset = self.presets.find(name, field)
        except NotFound as error:
            self.violations.add_not_found(error)
            return None
        if preset.why_no_switch:
            self.violations.add(field, preset.why_no_switch)
            return None
        brought = tuple(replace(edit, source=f"switch:{preset.named}") for edit in preset.interventions)
        return Switch(str(preset.named), brought)
