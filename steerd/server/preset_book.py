"""The presets of the server, by name and version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steerd.errors import NotFound
from steerd.server.violations import Violations, shown
from steerd.steering.intervention import Intervention
from steerd.steering.steering import NamedVersion
from steerd.steering.trigger import Trigger


@dataclass(frozen=True, slots=True)
class Preset:
    """Steering under a name and version; its interventions and triggers say that they come from it."""

    named: NamedVersion
    description: str
    interventions: tuple[Intervention, ...]
    triggers: tuple[Trigger, ...] = ()

    @property
    def why_no_switch(self) -> str:
        """Why nothing switches to it, empty if something may: a switch brings interventions alone."""
        if not self.triggers:
            return ""
        return f"{self.named} has triggers, which a switch does not bring; move them to a preset of their own"


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
