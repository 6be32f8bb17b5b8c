"""Parsed TOML tables as frozen dataclasses; unknown or missing keys and wrong types are errors."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from steerd.errors import ConfigError

T = TypeVar("T")


# Any: what TOML may hold, and whichever class a field's type names.
def read_table(cls: type[T], table: Any, where: str, *, also: frozenset[str] = frozenset()) -> T:
    """Build the dataclass `cls` from a table; `where` ("training.") begins every error's path.

    Keys in `also` belong to somebody else and are passed over. Raises ConfigError.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where.rstrip('.')}: must be a table, found {table!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # a dataclass
    for key in table:
        if key not in fields and key not in also:
            known = ", ".join(sorted({*fields, *also}, key=[*fields, *sorted(also)].index))
            raise ConfigError(f"{where}{key}: unknown key; known here: {known}")
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if not has_default and name not in table:
            raise ConfigError(f"{where}{name}: missing")
    own = {key: _value(hints[key], value, where + key) for key, value in table.items() if key in fields}
    return cls(**own)


def _value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):  # `int | None`: TOML says None by leaving the key out
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return read_table(hint, value, f"{where}.")
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _items(typing.get_args(hint)[0], value, where)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where}: must be one of {', '.join(typing.get_args(hint))}, found {value!r}")
        return value
    accepted: type | types.UnionType = int | float if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: must be {_TYPE_WORDS[hint]}, found {value!r}")
    return hint(value)


def _items(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        kind = "tables" if dataclasses.is_dataclass(hint) else "values"
        raise ConfigError(f"{where}: must be a list of {kind}, found {value!r}")
    return tuple(_value(hint, entry, f"{where}[{index}]") for index, entry in enumerate(value))


_TYPE_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def check_bounds(section: Any, where: str, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raise ConfigError when a number of `section` lies outside its bounds; None is within any."""
    for name, (lowest, highest) in bounds.items():
        value = getattr(section, name)
        if value is not None and not lowest <= value <= highest:
            raise ConfigError(f"{where}{name}: must be from {lowest:g} to {highest:g}, found {value}")
