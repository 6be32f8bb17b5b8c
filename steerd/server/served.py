"""What is served at one time: the SAEs, and all of the configuration that was read for them."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.config import Config
from steerd.host.host_model import HostModel
from steerd.server.parse import RequestParser
from steerd.server.parse_steering import SteeringParser
from steerd.server.policy import Policies
from steerd.server.policy_book import read_policies
from steerd.server.preset_book import PresetBook
from steerd.server.preset_tables import read_presets
from steerd.steering.loaded_saes import LoadedSaes


@dataclass(frozen=True, slots=True)
class Served:
    """One host and its SAEs as requests see them; never changed, so who holds one sees nothing change."""

    saes: LoadedSaes
    presets: PresetBook
    policies: Policies
    requests: RequestParser


def read_served(config: Config, host: HostModel, saes: LoadedSaes) -> Served:
    """Presets and policies in the units of these SAEs. Raises ConfigError for one that cannot be."""
    presets = read_presets(config.presets, host, saes, config.limits)
    policies = read_policies(config.policies, presets, host, saes, config.limits)
    steering = SteeringParser(host, saes, config.limits, config.steering, presets, policies)
    return Served(saes, presets, policies, RequestParser(host, saes, config.limits, steering))


class Serving:
    """Holds what is served `now`, for all services together: a reload puts another in its place.

    To be looked at once a call, on the event loop, which is where it changes.
    """

    def __init__(self, now: Served) -> None:
        self.now = now
