"""Folders that one process at a time works on: locks of the operating system, gone with the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_train.activations.shard import CacheError


@contextmanager
def claimed(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a folder for this process; gives False when another holds it, or has renamed it meanwhile.

    The folder is created when it is absent. With `wait`, block until its holder is done or dead. Raises
    CacheError when there can be no such folder or no lock on it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    except OSError as error:
        raise CacheError(f"{folder}: cannot be made: {error.strerror}") from error
    try:
        yield _lock(folder, descriptor, wait=wait) and _is_still(folder, descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path, descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        raise CacheError(f"{folder}: cannot be locked: {error.strerror}") from error
    return True


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether the folder of that name is the one that was locked: its holder may have renamed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False
