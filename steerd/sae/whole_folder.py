"""A folder of files, or one of them, written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from steerd.errors import SaeFileError


def write_whole_folder(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Make `folder` hold these files; `None` means that the file is not to be there.

    The files are written and flushed to disk aside, in the same parent, and the folder takes its place by a
    rename: a reader sees the old folder, the new one, or for the moment between two renames none. Other
    files that lay in an old folder are kept. Whatever fails, the old folder is still there and nothing lies
    beside it. Raises SaeFileError for a place that is a file, or a folder of something else: one without
    any of these files, or with folders in it.
    """
    folder = folder.resolve()
    others = _other_files(folder, files)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
    aside.mkdir()
    try:
        for name, content in files.items():
            if content is not None:
                _write_flushed(aside / name, content)
        for other in others:
            shutil.copy2(other, aside / other.name, follow_symlinks=False)
        _flush_folder(aside)
        _swap_in(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _flush_folder(folder.parent)


def write_whole_file(path: Path, content: bytes) -> None:
    """Make `path` hold this: a reader sees the old file or the new one.

    Raises OSError; then the old file is still there.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        _write_flushed(aside, content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _other_files(folder: Path, files: Mapping[str, bytes | None]) -> list[Path]:
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise SaeFileError(f"{folder}: expected a folder or nothing, found a file; it is left as it was")
    entries = sorted(folder.iterdir())
    if entries and not any(entry.name in files for entry in entries):
        found = entries[0].name
        raise SaeFileError(
            f"{folder}: expected an SAE's folder or an empty one, found {found}; left as it was"
        )
    others = [entry for entry in entries if entry.name not in files]
    for other in others:
        if other.is_dir():
            raise SaeFileError(f"{folder}: holds a folder, {other.name}, so it is not replaced")
    return others


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap_in(aside: Path, folder: Path) -> None:
    """Only an empty folder can be replaced by one rename, so a full one is moved away first."""
    old = aside.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        aside.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
