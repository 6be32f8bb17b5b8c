"""The steering that a policy allows requests to ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steerd.errors import ConfigError, NotFound
from steerd.pb.v1 import catalog_service_pb2 as pb
from steerd.server.preset_book import PresetBook
from steerd.server.violations import shown
from steerd.steering.intervention import Direction, FeatureRef, Target, WholeSae
from steerd.steering.loaded_saes import LoadedSaes

ANY = "*"

_FEATURES = re.compile(r"(?P<sae>.+):(?:(?P<first>\d+)(?:-(?P<last>\d+))?|\*)")


@dataclass(frozen=True, slots=True)
class FeatureRange:
    """Features of one SAE from `first` to `last`, both included."""

    sae: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """Features, directions and reconstructions that may be asked for, and presets that may be named."""

    features: tuple[FeatureRange, ...]
    directions: bool
    reconstruct: bool
    presets: frozenset[str]

    def allows_edit(self, target: Target) -> bool:
        """Whether a request may edit the target by itself."""
        match target:
            case FeatureRef(sae, index):
                return any(each.sae == sae and each.first <= index <= each.last for each in self.features)
            case Direction():
                return self.directions
            case WholeSae():
                return self.reconstruct

    def allows_preset(self, named: str) -> bool:
        """Whether a request may name the preset, given as name@version."""
        return not self.presets.isdisjoint((named.partition("@")[0], named, ANY))


def read_allowance(message: pb.Allow, key: str, saes: LoadedSaes, presets: PresetBook) -> Allowance:
    """An allowance of the configuration. Raises ConfigError for what is not served."""
    for position, name in enumerate(message.presets):
        if name != ANY:
            _found(presets, name, f"{key}.presets[{position}]")
    return Allowance(
        features=_ranges(message.features, f"{key}.features", saes),
        directions=message.directions,
        reconstruct=message.reconstruct,
        presets=frozenset(message.presets),
    )


def _found(presets: PresetBook, name: str, key: str) -> None:
    try:
        presets.find(name, key)
    except NotFound as error:
        raise ConfigError(f"{key}: {error}") from error


def _ranges(texts: Sequence[str], key: str, saes: LoadedSaes) -> tuple[FeatureRange, ...]:
    return tuple(_range(text, f"{key}[{position}]", saes) for position, text in enumerate(texts))


def _range(text: str, key: str, saes: LoadedSaes) -> FeatureRange:
    found = _FEATURES.fullmatch(text)
    if found is None:
        raise ConfigError(f"{key} must be sae:index, sae:first-last or sae:*; got {shown(text)}")
    try:
        d_sae = saes.get(found["sae"], field=key).sae.d_sae
    except NotFound as error:
        raise ConfigError(f"{key}: {error}") from error
    if found["first"] is None:
        return FeatureRange(found["sae"], 0, d_sae - 1)
    first = int(found["first"])
    last = int(found["last"] or first)
    if not first <= last < d_sae:
        raise ConfigError(f"{key} must name features from 0 to {d_sae - 1} in order; got {shown(text)}")
    return FeatureRange(found["sae"], first, last)
