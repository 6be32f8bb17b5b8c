"""Checkpoints of a run, each a folder `step-00000500/` of tensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steerd.errors import SteerdError

FORMAT_VERSION = 1
KEPT = 2


class CheckpointError(SteerdError):
    """A checkpoint that is damaged or belongs to another run."""

    reason = "CHECKPOINT_ERROR"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything a run needs to go on: named tensors, and numbers and words as JSON."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]  # Any: JSON values


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `folder/step-NNNNNNNN` aside, rename it into place, and drop all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:08d}"
    aside = folder / f"step-{step:08d}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    _write(aside / "tensors.safetensors", safetensors.torch.save(tensors))
    state = {"format_version": FORMAT_VERSION, **checkpoint.state}
    _write(aside / "state.json", json.dumps(state, indent=1).encode())
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    for old in _checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    return target


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the folder of the newest whole checkpoint, if there is one."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raises CheckpointError naming the file."""
    try:
        state = json.loads((path / "state.json").read_text())
        with safe_open(path / "tensors.safetensors", framework="pt", backend="pread") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {state.get('format_version')!r}, this version reads {FORMAT_VERSION}"
        )
    return Checkpoint(tensors=tensors, state=state)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".partial")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
