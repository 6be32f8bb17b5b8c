"""The watch list on disk: one JSON file, whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from steerd.config import WatchedFeature
from steerd.config_file import parse_watch
from steerd.errors import ConfigError

_FORMAT_VERSION = 1


def read_watch_file(path: Path) -> tuple[WatchedFeature, ...] | None:
    """The list that was written last; None when there is no file. Raises ConfigError."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format_version") != _FORMAT_VERSION:
        raise ConfigError(f"{path} is no watch list of format_version {_FORMAT_VERSION}")
    return parse_watch(content.get("features"), f"{path}: features")


def write_watch_file(path: Path, features: Sequence[WatchedFeature]) -> None:
    """Put the list in the file's place; raises OSError, and leaves the file as it was."""
    content = {"format_version": _FORMAT_VERSION, "features": [asdict(feature) for feature in features]}
    aside = path.with_name(f".{path.name}.new")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
