"""Folders in the user's cache that are expensive to make: made once, whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root() -> Path:
    """Where steerd keeps what it can make again: $XDG_CACHE_HOME/steerd, by default ~/.cache/steerd."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "steerd"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, first letting `build` fill it if it does not exist.

    `build` writes into an empty folder beside it, which is renamed when its files are on disk. Of several
    processes that come together one builds and the others wait; a build that dies leaves nothing that counts.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_process_at_a_time(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                _build(folder, build)
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # a build that died left it
    aside.mkdir()
    try:
        build(aside)
        _write_through(aside)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _one_process_at_a_time(lock_path: Path) -> Iterator[None]:
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back, also when the process dies


def _write_through(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
