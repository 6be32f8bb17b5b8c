"""Which SAEs a path names, and what the run that made them wrote down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerd.errors import SteerdError
from steerd.sae.json_file import JsonObject, read_json_object
from steerd.sae.sae_file import CONFIG_FILE, PROVENANCE_FILE

SAES = "saes"
RUN_CONFIG = "config.toml"
LOG = "log.jsonl"


class ReportError(SteerdError):
    """A report that cannot be made from what was given."""

    reason = "REPORT_ERROR"


@dataclass(frozen=True, slots=True)
class ReportedSae:
    """An exported SAE, and the folder of the run that made it where that is there."""

    folder: Path
    run: Path | None

    @property
    def name(self) -> str:
        """What the run, or whoever named the folder, calls it."""
        return self.folder.name


def find_saes(path: Path, chosen: str | None = None) -> list[ReportedSae]:
    """Return the SAEs of a run's folder, or the one SAE whose own folder it is; raises ReportError.

    `chosen` picks one of a run's SAEs by name.
    """
    path = path.resolve()
    if (path / CONFIG_FILE).is_file():
        if chosen is not None:
            raise ReportError(f"{path}: is one SAE's folder, so there is no {chosen!r} to choose")
        run = path.parent.parent
        is_of_run = path.parent.name == SAES and (run / RUN_CONFIG).is_file()
        return [ReportedSae(path, run if is_of_run else None)]
    folders = [config.parent for config in sorted(path.glob(f"{SAES}/*/{CONFIG_FILE}"))]
    if not folders:
        raise ReportError(f"{path}: expected an SAE's folder with {CONFIG_FILE}, or a run's with {SAES}/")
    if chosen is not None:
        names = ", ".join(folder.name for folder in folders)
        folders = [folder for folder in folders if folder.name == chosen]
        if not folders:
            raise ReportError(f"{path}: no SAE is called {chosen!r}; there are {names}")
    return [ReportedSae(folder, path) for folder in folders]


def read_log(run: Path) -> list[JsonObject]:
    """Return the records of a run's log, none where there is none; raises ReportError naming the line.

    A last line without its end is what a killed run leaves, and is passed over.
    """
    path = run / LOG
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [_record(line, f"{path} line {i}") for i, line in enumerate(lines[:-1], start=1) if line.strip()]


def read_card(path: Path) -> JsonObject:
    """Return what `steerd.json` in an SAE's folder, or the JSON file itself, says; raises SaeFileError."""
    return read_json_object(path / PROVENANCE_FILE if path.is_dir() else path)


def _record(line: str, where: str) -> JsonObject:
    try:
        value: Any = json.loads(line)  # Any: whatever the line holds
    except ValueError as error:
        raise ReportError(f"{where}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ReportError(f"{where}: must hold a JSON object")
    return value
