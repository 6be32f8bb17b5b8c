"""The presets of the configuration, read by the rules of a request when host and SAEs are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from steerd.config import LimitsConfig, NamedTable
from steerd.errors import ConfigError, InvalidRequest, NotFound
from steerd.host.host_model import HostModel
from steerd.pb.v1 import catalog_service_pb2, steering_pb2
from steerd.server.edit_conflicts import PlacedEdit, check_conflicts
from steerd.server.parse_interventions import intervention_parser
from steerd.server.violations import Violations, shown
from steerd.steering.intervention import Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import NamedVersion

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Preset:
    """Steering under a name and version; its interventions say that they come from it."""

    named: NamedVersion
    description: str
    interventions: tuple[Intervention, ...]


class PresetBook:
    """The presets by name and version, in the order of the configuration."""

    def __init__(self, presets: Sequence[Preset] = ()) -> None:
        self._presets = tuple(presets)
        # Of a name alone, the last version listed.
        self._by_name = {preset.named.name: preset for preset in presets}
        self._by_name |= {str(preset.named): preset for preset in presets}

    def __iter__(self) -> Iterator[Preset]:
        return iter(self._presets)

    def find(self, name: str, field: str) -> Preset:
        """The preset that `name` or `name@version` stands for. Raises NotFound."""
        if name not in self._by_name:
            known = ", ".join(str(preset.named) for preset in self._presets) or "none"
            problem = f"no preset named {shown(name)}; there are: {known}"
            raise NotFound(problem, reason="PRESET_NOT_FOUND", field=field)
        return self._by_name[name]

    def chosen(self, names: Sequence[str], limit: int, violations: Violations) -> list[tuple[str, Preset]]:
        """The presets that a request names, each with its field, recording every broken rule."""
        if not violations.must_be_at_most("presets", len(names), limit, "presets"):
            return []
        found: dict[NamedVersion, tuple[str, Preset]] = {}
        for position, name in enumerate(names):
            field = f"presets[{position}]"
            try:
                preset = self.find(name, field)
            except NotFound as error:
                violations.add_not_found(error)
                continue
            if preset.named in found:
                violations.add(field, f"names {preset.named} once more")
            found[preset.named] = field, preset
        return list(found.values())


def read_presets(
    configs: Sequence[NamedTable], host: HostModel, saes: LoadedSaes, limits: LimitsConfig
) -> PresetBook:
    """The presets of a configuration. Raises ConfigError, which names the key."""
    return PresetBook([_preset(f"presets[{n}]", each, host, saes, limits) for n, each in enumerate(configs)])


def _preset(key: str, config: NamedTable, host: HostModel, saes: LoadedSaes, limits: LimitsConfig) -> Preset:
    message = message_of(config.table, catalog_service_pb2.Preset(), key)
    named = NamedVersion(config.name, config.version)
    edits = read_edits(message.interventions, f"{key}.interventions", host, saes, limits)
    interventions = tuple(replace(edit.intervention, source=f"preset:{named}") for edit in edits)
    if not interventions:
        raise ConfigError(f"{key}.interventions must not be empty")
    return Preset(named, message.description, interventions)


def message_of(table: Mapping[str, Any], message: M, key: str) -> M:
    """A table of the configuration as the message whose field names it uses. Raises ConfigError."""
    try:
        return ParseDict(dict(table), message)
    except (ParseError, TypeError) as error:  # a TypeError for what only TOML knows: dates
        raise ConfigError(f"{key}: {error}") from error


def read_edits(
    messages: Sequence[steering_pb2.Intervention],
    key: str,
    host: HostModel,
    saes: LoadedSaes,
    limits: LimitsConfig,
) -> list[PlacedEdit]:
    """The interventions under a key of the configuration, by the rules of a request. Raises ConfigError."""
    violations = Violations()
    parser = intervention_parser(host, saes, limits, violations, has_roles=True)
    edits = parser.interventions(messages, key)
    check_conflicts(edits, saes, violations)
    settled(violations)
    return edits


def settled(violations: Violations) -> None:
    """Raise ConfigError with every broken rule, if there is any."""
    try:
        violations.raise_if_any()
    except InvalidRequest as error:
        raise ConfigError(str(error)) from error
    except NotFound as error:
        raise ConfigError(f"{error.field}: {error}") from error
