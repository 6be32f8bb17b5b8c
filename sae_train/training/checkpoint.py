"""Checkpoints of a run, each a folder `step-00000500/` of tensor files and JSON, whole or absent."""

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

FORMAT_VERSION = 2
KEPT = 2


class CheckpointError(SteerdError):
    """A checkpoint that is damaged, belongs to another run or cannot be written."""

    reason = "CHECKPOINT_ERROR"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything a run needs to go on: named tensors by part of the run, and numbers and words as JSON."""

    parts: dict[str, dict[str, Tensor]]
    state: dict[str, Any]  # Any: JSON values


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `folder/step-NNNNNNNN` aside, rename it into place, and drop all but the newest two.

    Raises CheckpointError when the disk does not take it; the checkpoints before stay.
    """
    target = folder / f"step-{step:08d}"
    aside = folder / f"step-{step:08d}.partial"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, tensors in checkpoint.parts.items():
            safetensors.torch.save_file(_on_cpu(tensors), aside / f"{name}.safetensors")
            _flush(aside / f"{name}.safetensors")
        state = {"format_version": FORMAT_VERSION, "parts": list(checkpoint.parts), **checkpoint.state}
        (aside / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        _flush(aside / "state.json")
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"{target}: cannot be written: {error}") from error
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
        if state.get("format_version") != FORMAT_VERSION:
            found = state.get("format_version")
            raise CheckpointError(f"{path}: format_version is {found!r}, this version reads {FORMAT_VERSION}")
        parts = {name: _read(path / f"{name}.safetensors") for name in state["parts"]}
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return Checkpoint(parts=parts, state=state)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".partial")


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt", backend="pread") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping


def _flush(path: Path) -> None:
    """Have a written file on the disk before its folder gets the name that counts."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
