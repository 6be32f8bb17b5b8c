"""Steering that the configuration words as a request does, read by a request's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from steerd.config import LimitsConfig
from steerd.errors import ConfigError, InvalidRequest, NotFound
from steerd.host.host_model import HostModel
from steerd.pb.v1 import steering_pb2
from steerd.server.edit_conflicts import PlacedEdit, check_conflicts
from steerd.server.parse_interventions import intervention_parser
from steerd.server.parse_trigger import PlacedTrigger, TriggerParser
from steerd.server.preset_book import PresetBook
from steerd.server.violations import Violations
from steerd.steering.loaded_saes import LoadedSaes

M = TypeVar("M", bound=Message)


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


def read_triggers(
    messages: Sequence[steering_pb2.Trigger],
    key: str,
    presets: PresetBook,
    host: HostModel,
    saes: LoadedSaes,
    limits: LimitsConfig,
) -> list[PlacedTrigger]:
    """The triggers under a key of the configuration, by the rules of a request. Raises ConfigError."""
    violations = Violations()
    parser = intervention_parser(host, saes, limits, violations, has_roles=False)
    triggers = TriggerParser(parser.conditions, presets, limits, violations).triggers(messages, key)
    settled(violations)
    return triggers


def settled(violations: Violations) -> None:
    """Raise ConfigError with every broken rule, if there is any."""
    try:
        violations.raise_if_any()
    except InvalidRequest as error:
        raise ConfigError(str(error)) from error
    except NotFound as error:
        raise ConfigError(f"{error.field}: {error}") from error
