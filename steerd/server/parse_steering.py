"""All that steers a request, its own interventions and what it names, as it will be applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.config import LimitsConfig, SteeringConfig
from steerd.host.host_model import HostModel
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.dose import DoseGuard
from steerd.server.edit_conflicts import PlacedEdit, check_conflicts
from steerd.server.parse_interventions import InterventionParser, intervention_parser
from steerd.server.parse_prompt import InputMessage, PromptParser
from steerd.server.parse_trigger import TriggerParser
from steerd.server.policy import Policies
from steerd.server.preset_book import PresetBook
from steerd.server.violations import Violations
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import RoleSpan
from steerd.steering.steering import Steering
from steerd.steering.trigger import Trigger


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
        message: InputMessage,
        prompts: PromptParser,
        prompt_ids: tuple[int, ...] | None,
        violations: Violations,
    ) -> Steering:
        """What steers the request; `prompt_ids` are None when they could not be had. Records broken rules."""
        has_roles = message.HasField("chat")
        parser = intervention_parser(self.host, self.saes, self.limits, violations, has_roles=has_roles)
        edits = parser.interventions(message.interventions, "interventions")
        presets = self.presets.chosen(message.presets, self.limits.max_presets, violations)
        edits += [PlacedEdit(field, edit) for field, preset in presets for edit in preset.interventions]
        check_conflicts(edits, self.saes, violations)
        guard = DoseGuard(self.saes, self.config.max_dose, self.config.over_dose)
        guarded = guard.guard([edit.intervention for edit in edits])
        for refusal in guarded.refusals:
            violations.add("interventions", refusal)
        asked = Steering(
            interventions=guarded.interventions,
            triggers=self._triggers(message, edits, parser, violations),
            roles=_roles(edits, message, prompts, prompt_ids, violations),
            warnings=guarded.warnings,
            presets=tuple(preset.named for _, preset in presets),
        )
        return self.policies.govern(asked, [edit.place for edit in edits], violations)

    def _triggers(
        self,
        message: InputMessage,
        edits: Sequence[PlacedEdit],
        parser: InterventionParser,
        violations: Violations,
    ) -> tuple[Trigger, ...]:
        """The triggers of a Generate; checks how much is tested, those of conditions of edits included."""
        messages = message.triggers if isinstance(message, pb.GenerateRequest) else ()
        triggers = TriggerParser(parser.conditions, self.limits, violations).triggers(messages, "triggers")
        conditions = [edit.intervention.condition for edit in edits]
        conditions += [trigger.condition for trigger in triggers]
        num_tests = sum(len(condition.tests) for condition in conditions if condition is not None)
        field, what = ("triggers" if triggers else "interventions"), "tests in all conditions"
        violations.must_be_at_most(field, num_tests, self.limits.max_tests, what)
        return triggers


def _roles(
    edits: Sequence[PlacedEdit],
    message: InputMessage,
    prompts: PromptParser,
    prompt_ids: tuple[int, ...] | None,
    violations: Violations,
) -> tuple[RoleSpan, ...]:
    asking = [edit for edit in edits if edit.intervention.scope.roles]
    if not asking:
        return ()
    if message.HasField("chat"):
        return prompts.roles(message, prompt_ids, asking[0].place)
    for place in {edit.place for edit in asking if edit.intervention.source}:  # the others are told already
        violations.add(place, "is for messages of roles, and needs the request's input to be chat")
    return ()
