"""All that steers a request, its own interventions and what it names, as it will be applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from steerd.config import LimitsConfig, SteeringConfig
from steerd.host.host_model import HostModel
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.server.dose import DoseGuard
from steerd.server.edit_conflicts import PlacedEdit, check_conflicts
from steerd.server.parse_interventions import (
    InterventionParser,
    intervention_parser,
    num_direction_values,
)
from steerd.server.parse_prompt import PromptParser, TextMessage
from steerd.server.parse_trigger import PlacedTrigger, TriggerParser
from steerd.server.policy import Policies
from steerd.server.preset_book import Preset, PresetBook
from steerd.server.violations import Violations
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import RoleSpan
from steerd.steering.steering import Steering
from steerd.steering.trigger import Switch


class SteeringMessage(Protocol):
    """A request for something that is steered."""

    @property
    def interventions(self) -> Sequence[steering_pb2.Intervention]: ...

    @property
    def presets(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class SteeringParser:
    """Parses what steers requests, for one host, its SAEs, and the operator's presets and policies."""

    host: HostModel
    saes: LoadedSaes
    limits: LimitsConfig
    config: SteeringConfig
    presets: PresetBook
    policies: Policies

    def steering(
        self,
        message: SteeringMessage,
        text: TextMessage,
        prompts: PromptParser,
        prompt_ids: tuple[int, ...] | None,
        violations: Violations,
        besides: Sequence[PlacedEdit] = (),
    ) -> Steering:
        """What steers the text of a request; `prompt_ids` are None when they could not be had.

        `besides` are edits that it asks for in other words. Records broken rules.
        """
        has_roles = text.HasField("chat")
        parser = intervention_parser(self.host, self.saes, self.limits, violations, has_roles=has_roles)
        edits = parser.interventions(message.interventions, "interventions")
        presets = self.presets.chosen(message.presets, self.limits.max_presets, violations)
        edits += [PlacedEdit(field, edit) for field, preset in presets for edit in preset.interventions]
        edits += besides
        check_conflicts(edits, self.saes, violations)
        guard = DoseGuard(self.saes, self.config.max_dose, self.config.over_dose)
        guarded = guard.guard([edit.intervention for edit in edits])
        for refusal in guarded.refusals:
            violations.add("interventions", refusal)
        triggers = self._triggers(message, presets, parser, violations)
        brought = [PlacedEdit(each.switch_place, edit) for each in triggers for edit in each.trigger.brings]
        self._check_tests([*edits, *brought], triggers, violations)
        warnings = [*guarded.warnings, *_left_out(message, presets)]
        triggers = [_within_dose(each, guard, warnings, violations) for each in triggers]
        asked = Steering(
            interventions=guarded.interventions,
            roles=_roles([*edits, *brought], text, prompts, prompt_ids, violations),
            warnings=tuple(warnings),
            presets=tuple(preset.named for _, preset in presets),
        )
        return self.policies.govern(asked, [edit.place for edit in edits], triggers, violations)

    def _triggers(
        self,
        message: SteeringMessage,
        presets: Sequence[tuple[str, Preset]],
        parser: InterventionParser,
        violations: Violations,
    ) -> list[PlacedTrigger]:
        """The triggers of a Generate, its own and those of its presets."""
        if not isinstance(message, pb.GenerateRequest):
            return []
        triggers = TriggerParser(parser.conditions, self.presets, self.limits, violations)
        values = num_direction_values(message.interventions)
        own = triggers.triggers(message.triggers, "triggers", values_besides=values)
        brought = [PlacedTrigger(field, each) for field, preset in presets for each in preset.triggers]
        names = {each.trigger.name: each.name_place for each in reversed([*own, *brought])}
        for each in brought:
            name, taken_at = each.trigger.name, names[each.trigger.name]
            if taken_at != each.name_place:
                violations.add(each.name_place, f"brings a trigger named {name}, as {taken_at} does")
        if brought:
            violations.must_be_at_most(
                "triggers",
                len(own) + len(brought),
                self.limits.max_triggers,
                "triggers, those of presets too",
            )
        return [*own, *brought]

    def _check_tests(
        self, edits: Sequence[PlacedEdit], triggers: Sequence[PlacedTrigger], violations: Violations
    ) -> None:
        """How much is tested in all conditions, those of edits that switches bring included."""
        conditions = [edit.intervention.condition for edit in edits]
        conditions += [each.trigger.condition for each in triggers]
        num_tests = sum(len(condition.tests) for condition in conditions if condition is not None)
        field, what = ("triggers" if triggers else "interventions"), "tests in all conditions"
        violations.must_be_at_most(field, num_tests, self.limits.max_tests, what)


def _left_out(message: SteeringMessage, presets: Sequence[tuple[str, Preset]]) -> list[str]:
    """Warnings: a given text cannot be stopped or turned."""
    if isinstance(message, pb.GenerateRequest):
        return []
    named = [preset.named for _, preset in presets if preset.triggers]
    return [f"preset {each}: its triggers are for Generate, and are left out" for each in named]


def _within_dose(
    placed: PlacedTrigger, guard: DoseGuard, warnings: list[str], violations: Violations
) -> PlacedTrigger:
    """The trigger with what it brings guarded, by itself: it takes the place of all else."""
    guarded = guard.guard(placed.trigger.brings)
    for refusal in guarded.refusals:
        violations.add(placed.switch_place, refusal)
    if isinstance(action := placed.trigger.action, Switch):
        warnings += [f"switch to {action.preset}: {told}" for told in guarded.warnings]
    return replace(placed, trigger=placed.trigger.bringing(guarded.interventions))


def _roles(
    edits: Sequence[PlacedEdit],
    text: TextMessage,
    prompts: PromptParser,
    prompt_ids: tuple[int, ...] | None,
    violations: Violations,
) -> tuple[RoleSpan, ...]:
    asking = [edit for edit in edits if edit.intervention.scope.roles]
    if not asking:
        return ()
    if text.HasField("chat"):
        return prompts.roles(text, prompt_ids, asking[0].place)
    for place in {edit.place for edit in asking if edit.intervention.source}:  # the others are told already
        violations.add(place, "is for messages of roles, and needs the request's input to be chat")
    return ()
