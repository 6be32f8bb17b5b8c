"""The presets of the configuration, read when host and SAEs are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steerd.config import LimitsConfig, NamedTable
from steerd.errors import ConfigError
from steerd.host.host_model import HostModel
from steerd.pb.v1 import catalog_service_pb2
from steerd.server.preset_book import Preset, PresetBook
from steerd.server.steering_tables import message_of, read_edits, read_triggers
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import NamedVersion
from steerd.steering.trigger import Switch


def read_presets(
    configs: Sequence[NamedTable], host: HostModel, saes: LoadedSaes, limits: LimitsConfig
) -> PresetBook:
    """The presets of a configuration. Raises ConfigError, which names the key.

    Their triggers may switch to any of them, those further down as well.
    """
    tables = [
        (
            f"presets[{number}]",
            config,
            message_of(config.table, catalog_service_pb2.Preset(), f"presets[{number}]"),
        )
        for number, config in enumerate(configs)
    ]
    presets = [_preset(key, config, message, host, saes, limits) for key, config, message in tables]
    book = PresetBook(presets)
    whole = PresetBook(
        [
            _with_triggers(preset, key, message, book, host, saes, limits)
            for preset, (key, _, message) in zip(presets, tables, strict=True)
        ]
    )
    _check_switches(whole)
    return whole


def _preset(
    key: str,
    config: NamedTable,
    message: catalog_service_pb2.Preset,
    host: HostModel,
    saes: LoadedSaes,
    limits: LimitsConfig,
) -> Preset:
    """What a preset does, but for its triggers."""
    named = NamedVersion(config.name, config.version)
    if not message.interventions and not message.triggers:
        raise ConfigError(f"{key}.interventions must not be empty where there are no triggers either")
    edits = read_edits(message.interventions, f"{key}.interventions", host, saes, limits)
    interventions = tuple(replace(edit.intervention, source=f"preset:{named}") for edit in edits)
    return Preset(named, message.description, interventions)


def _with_triggers(
    preset: Preset,
    key: str,
    message: catalog_service_pb2.Preset,
    presets: PresetBook,
    host: HostModel,
    saes: LoadedSaes,
    limits: LimitsConfig,
) -> Preset:
    triggers = read_triggers(message.triggers, f"{key}.triggers", presets, host, saes, limits)
    conditions = [edit.condition for edit in preset.interventions]
    for trigger in (each.trigger for each in triggers):
        conditions += [trigger.condition, *(edit.condition for edit in trigger.brings)]
    num_tests = sum(len(condition.tests) for condition in conditions if condition is not None)
    if num_tests > limits.max_tests:
        bound = f"at most limits.max_tests, {limits.max_tests}, features in all conditions"
        raise ConfigError(f"{key} must test {bound}; got {num_tests}")
    source = f"preset:{preset.named}"
    return replace(preset, triggers=tuple(replace(each.trigger, source=source) for each in triggers))


def _check_switches(presets: PresetBook) -> None:
    """What has triggers is known only when all of them are read."""
    for number, preset in enumerate(presets):
        for place, trigger in enumerate(preset.triggers):
            if not isinstance(trigger.action, Switch):
                continue
            key = f"presets[{number}].triggers[{place}].switch.preset"
            if reason := presets.find(trigger.action.preset, key).why_no_switch:
                raise ConfigError(f"{key}: {reason}")
