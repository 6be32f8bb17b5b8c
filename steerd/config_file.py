"""A Config from a TOML file, read strictly: an unknown key or a wrong type raises ConfigError with its key.

What a file leaves out has the default that `config` gives it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from steerd.config import (
    Config,
    EngineConfig,
    LimitsConfig,
    ModelConfig,
    MonitoringConfig,
    NamedTable,
    SaeConfig,
    ServerConfig,
    SteeringConfig,
    WatchedFeature,
    check_watch,
    default_saes,
    refuse,
)
from steerd.errors import ConfigError
from steerd.starters import STARTERS

T = TypeVar("T")


def load_config(path: Path) -> Config:
    """Read a TOML file; relative SAE paths are taken from its folder. Raises ConfigError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return parse_config(tables, folder=path.parent)


def parse_config(tables: Mapping[str, Any], *, folder: Path) -> Config:
    """Turn parsed TOML into a Config; `folder` is where relative SAE paths start. Raises ConfigError."""
    _check_keys(tables, [known.name for known in fields(Config)], "")
    model = _read_section(ModelConfig, tables.get("model", {}), "model")
    saes = _read_list(SaeConfig, tables["saes"], "saes") if "saes" in tables else default_saes(model.name)
    monitoring = dict(_table(tables.get("monitoring", {}), "monitoring"))
    watch = _read_list(WatchedFeature, monitoring.pop("watch", []), "monitoring.watch")
    return Config(
        model=model,
        saes=tuple(replace(sae, path=_resolve(sae.path, folder)) for sae in saes),
        engine=_read_section(EngineConfig, tables.get("engine", {}), "engine"),
        server=_read_section(ServerConfig, tables.get("server", {}), "server"),
        limits=_read_section(LimitsConfig, tables.get("limits", {}), "limits"),
        steering=_read_section(SteeringConfig, tables.get("steering", {}), "steering"),
        monitoring=_read_monitoring(monitoring, watch, folder),
        presets=_read_named(tables.get("presets", []), "presets"),
        policies=_read_named(tables.get("policies", []), "policies"),
    )


def _read_monitoring(
    table: Mapping[str, Any], watch: tuple[WatchedFeature, ...], folder: Path
) -> MonitoringConfig:
    section = _read_section(MonitoringConfig, table, "monitoring")
    file = str(folder / Path(section.watch_file).expanduser()) if section.watch_file else ""
    log = section.request_log
    log = log if log in ("stderr", "off") else str(folder / Path(log).expanduser())
    return replace(section, watch=watch, watch_file=file, request_log=log)


def parse_watch(tables: object, key: str) -> tuple[WatchedFeature, ...]:
    """A watch list from parsed JSON or TOML; raises ConfigError, which says what is wrong under `key`."""
    watch = _read_list(WatchedFeature, tables, key)
    check_watch(watch, key)
    return watch


def _resolve(path: str, folder: Path) -> str:
    return path if path in STARTERS else str(folder / Path(path).expanduser())


def _read_list(section: type[T], tables: object, key: str) -> tuple[T, ...]:
    if not isinstance(tables, list):
        refuse(key, f"an array of tables, [[{key}]]", tables)
    return tuple(_read_section(section, table, f"{key}[{position}]") for position, table in enumerate(tables))


def _read_named(tables: object, key: str) -> tuple[NamedTable, ...]:
    if not isinstance(tables, list):
        refuse(key, f"an array of tables, [[{key}]]", tables)
    return tuple(_read_named_table(table, f"{key}[{position}]") for position, table in enumerate(tables))


def _read_named_table(table: object, key: str) -> NamedTable:
    table = _table(table, key)
    for name in ("name", "version"):
        if name not in table:
            raise ConfigError(f"{key}.{name} is missing")
        _typed(table[name], "str", f"{key}.{name}")
    return NamedTable(name=table["name"], version=table["version"], table=table)


def _read_section(section: type[T], table: object, key: str) -> T:
    table = _table(table, key)
    known = {item.name: item for item in fields(section)}  # type: ignore[arg-type]  # always a dataclass here
    _check_keys(table, known, f"{key}.")
    values = {name: _typed(value, str(known[name].type), f"{key}.{name}") for name, value in table.items()}
    for name, item in known.items():
        if name not in values and item.default is MISSING:
            raise ConfigError(f"{key}.{name} is missing")
    return section(**values)


def _typed(value: object, wanted: str, key: str) -> object:
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != wanted:
        refuse(key, f"a value of type {wanted}", value)
    return value


def _table(table: object, key: str) -> Mapping[str, Any]:
    if not isinstance(table, Mapping):
        refuse(key, f"a table, [{key}]", table)
    return table


def _check_keys(table: Mapping[str, Any], known: Iterable[str], prefix: str) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"unknown key {prefix}{name}; known keys are {', '.join(known)}")
