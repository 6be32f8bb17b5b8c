"""The policies of the configuration, read by the rules of a request when host, SAEs and presets are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steerd.config import LimitsConfig, NamedTable
from steerd.errors import ConfigError
from steerd.host.host_model import HostModel
from steerd.pb.v1 import catalog_service_pb2, steering_pb2
from steerd.server.allowance import read_allowance
from steerd.server.dose import DoseGuard
from steerd.server.edit_conflicts import PlacedEdit, check_conflicts
from steerd.server.parse_trigger import PlacedTrigger
from steerd.server.policy import Policies, Policy
from steerd.server.preset_book import PresetBook
from steerd.server.steering_tables import message_of, read_edits, read_triggers, settled
from steerd.server.violations import Violations, shown
from steerd.steering.lane_tables import MAX_TESTS
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Schedule
from steerd.steering.steering import NamedVersion
from steerd.steering.trigger import Switch, Trigger

_OVER_DOSE = {
    steering_pb2.OVER_DOSE_WARN: "warn",
    steering_pb2.OVER_DOSE_CLAMP: "clamp",
    steering_pb2.OVER_DOSE_REJECT: "reject",
}


def read_policies(
    configs: Sequence[NamedTable],
    presets: PresetBook,
    host: HostModel,
    saes: LoadedSaes,
    limits: LimitsConfig,
) -> Policies:
    """The policies of a configuration. Raises ConfigError, which names the key."""
    read = [
        _policy(f"policies[{position}]", config, presets, host, saes, limits)
        for position, config in enumerate(configs)
    ]
    violations = Violations()
    check_conflicts(
        [
            PlacedEdit(f"policies[{position}].interventions[{number}]", edit)
            for position, policy in enumerate(read)
            for number, edit in enumerate(policy.interventions)
        ],
        saes,
        violations,
    )
    settled(violations)
    _check_triggers([trigger for policy in read for trigger in policy.triggers], limits)
    policies = Policies(read, saes)
    _check_presets(presets, policies)
    _check_names(presets, policies)
    return policies


def _policy(
    key: str,
    config: NamedTable,
    presets: PresetBook,
    host: HostModel,
    saes: LoadedSaes,
    limits: LimitsConfig,
) -> Policy:
    message = message_of(config.table, catalog_service_pb2.Policy(), key)
    named = NamedVersion(config.name, config.version)
    edits = read_edits(message.interventions, f"{key}.interventions", host, saes, limits)
    _check_edits(edits)
    triggers = read_triggers(message.triggers, f"{key}.triggers", presets, host, saes, limits)
    _check_actions(triggers)
    allowed = message.HasField("allow")
    return Policy(
        named=named,
        description=message.description,
        interventions=tuple(replace(edit.intervention, source=f"policy:{named}") for edit in edits),
        triggers=tuple(replace(each.trigger, source=f"policy:{named}") for each in triggers),
        allowance=read_allowance(message.allow, f"{key}.allow", saes, presets) if allowed else None,
        cap=_cap(message, key, saes),
    )


def _check_actions(triggers: Sequence[PlacedTrigger]) -> None:
    for each in triggers:
        if isinstance(each.trigger.action, Switch):
            raise ConfigError(f"{each.place}.switch is for requests; a policy's own edits never change")


def _check_edits(edits: Sequence[PlacedEdit]) -> None:
    """What would have no meaning for every request, or could be got around."""
    for edit in edits:
        if edit.intervention.scope.roles:
            raise ConfigError(f"{edit.place}.scope.roles is for chats; other requests would get around it")
        if edit.intervention.preserve_norm:
            raise ConfigError(f"{edit.place}.preserve_norm is for requests; a policy leaves what it makes")
        if edit.intervention.schedule != Schedule():
            raise ConfigError(f"{edit.place}.schedule is for requests; a policy holds on every row in scope")
        if edit.intervention.condition is not None:
            raise ConfigError(f"{edit.place}.when is for requests; a policy holds on every row in scope")


def _check_triggers(triggers: Sequence[Trigger], limits: LimitsConfig) -> None:
    """All run in every request, beside its own."""
    names = [trigger.name for trigger in triggers]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"policies: two triggers are named {repeated[0]!r}")
    num_tests = sum(len(trigger.condition.tests) for trigger in triggers)
    if num_tests + limits.max_tests > MAX_TESTS:
        room = MAX_TESTS - limits.max_tests
        raise ConfigError(
            f"policies must test at most {room} features beside limits.max_tests; got {num_tests}"
        )


def _cap(message: catalog_service_pb2.Policy, key: str, saes: LoadedSaes) -> DoseGuard | None:
    if not message.HasField("max_dose"):
        return None
    if not 0 <= message.max_dose <= 1e9:
        raise ConfigError(f"{key}.max_dose must be between 0 and 1e9; got {shown(message.max_dose)}")
    if message.over_dose not in _OVER_DOSE:
        raise ConfigError(f"{key}.over_dose must say what happens to more than max_dose")
    return DoseGuard(saes, message.max_dose, _OVER_DOSE[message.over_dose])


def _check_presets(presets: PresetBook, policies: Policies) -> None:
    """A preset that a policy refuses whatever the request could never be used."""
    for position, preset in enumerate(presets):
        for number, edit in enumerate(preset.interventions):
            for policy in policies:
                if (reason := policies.undone(policy, edit.target)) is not None:
                    key = f"presets[{position}].interventions[{number}]"
                    raise ConfigError(f"{key}: policy {policy.named} {reason}")


def _check_names(presets: PresetBook, policies: Policies) -> None:
    """What fires is told by name; triggers of a preset named as a policy's could never be used."""
    taken = {trigger.name: policy.named for policy in policies for trigger in policy.triggers}
    for position, preset in enumerate(presets):
        for number, trigger in enumerate(preset.triggers):
            if trigger.name in taken:
                key = f"presets[{position}].triggers[{number}].name"
                bound = f"unlike those of policy {taken[trigger.name]}"
                raise ConfigError(f"{key} must be {bound}; got {shown(trigger.name)}")
