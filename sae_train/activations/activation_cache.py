"""Host activations on disk: shards of float16 rows with their tokens, written whole or not at all.

Layout: `FOLDER/cache.json` (what was harvested, format version) and per shard a folder `train-00000/` or
`held_out-00000/` holding `resid.npy` [rows, d_model] float16, `token_ids.npy` [rows] int32, `keep.npy` [rows]
bool, `starts.npy` [blocks + 1] int64 (where each block begins), `shard.json` (sources, counts). A shard is a
run of consecutive blocks of a stream that is the same each time, so a harvest that was cut off goes on after
the last whole shard.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_train.corpus.token_blocks import TokenBlock
from steerd.errors import SteerdError

FORMAT_VERSION = 1
Split = Literal["train", "held_out"]

_FLOAT16_MAX = 65504.0  # attention sinks may exceed it; they are dropped later


class CacheError(SteerdError):
    """An activation cache that is missing, damaged or was made for another run."""

    reason = "CACHE_ERROR"


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard, its arrays mapped from disk."""

    resid: NDArray[np.float16]  # [rows, d_model]
    token_ids: NDArray[np.int32]  # [rows]
    keep: NDArray[np.bool_]  # [rows]
    starts: NDArray[np.int64]  # [blocks + 1]
    sources: list[str]

    @property
    def blocks(self) -> int:
        """How many blocks the shard holds."""
        return len(self.sources)

    @property
    def kept_rows(self) -> int:
        """How many rows are trained on."""
        return int(self.keep.sum())

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Copy the given rows into memory, [len(rows), d_model] float32."""
        return torch.from_numpy(self.resid[rows].astype(np.float32))

    def row_blocks(self) -> NDArray[np.int64]:
        """Return each row's block, [rows]."""
        return np.repeat(np.arange(self.blocks), np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class ActivationCache:
    """A folder of shards for one host, hook point and corpus; `identity` says which."""

    folder: Path
    identity: dict[str, Any]  # Any: JSON values

    @classmethod
    def open_or_create(cls, folder: Path, identity: dict[str, Any]) -> ActivationCache:
        """Use the folder if it was made for the same `identity`, create it if absent; else CacheError."""
        path = folder / "cache.json"
        wanted = {"format_version": FORMAT_VERSION, **identity}
        if path.exists():
            found = json.loads(path.read_text())
            for key in sorted(wanted.keys() | found.keys()):
                if wanted.get(key) != found.get(key):
                    raise CacheError(
                        f"{folder}: made for another run: {key} is {found.get(key)!r}, "
                        f"this run has {wanted.get(key)!r}"
                    )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(path, wanted)
        return cls(folder=folder, identity=wanted)

    def shard_paths(self, split: Split) -> list[Path]:
        """Return the whole shards of a split in order."""
        return sorted(path for path in self.folder.glob(f"{split}-*") if path.suffix != ".partial")

    def shards(self, split: Split) -> Iterator[Shard]:
        """Open every whole shard of a split in order."""
        return (open_shard(path) for path in self.shard_paths(split))

    def kept_tokens(self, split: Split) -> int:
        """Count the kept tokens of a split."""
        return sum(int(_read_json(path / "shard.json")["kept_rows"]) for path in self.shard_paths(split))

    def blocks(self, split: Split) -> int:
        """Count the blocks of a split."""
        return sum(len(_read_json(path / "shard.json")["sources"]) for path in self.shard_paths(split))


def write_shard(folder: Path, blocks: list[TokenBlock], resid: Tensor) -> None:
    """Write one shard aside and rename it into place; `resid` [rows, d_model] has the blocks in order."""
    aside = folder.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    keep = np.array([keep for block in blocks for keep in block.keep], dtype=np.bool_)
    token_ids = np.array([token_id for block in blocks for token_id in block.ids], dtype=np.int32)
    _write_array(aside / "resid.npy", resid.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16).numpy())
    _write_array(aside / "token_ids.npy", token_ids)
    _write_array(aside / "keep.npy", keep)
    _write_array(aside / "starts.npy", np.cumsum([0] + [len(block.ids) for block in blocks], dtype=np.int64))
    counts = {"kept_rows": int(keep.sum()), "rows": len(keep), "sources": [block.source for block in blocks]}
    _write_json(aside / "shard.json", counts)
    aside.rename(folder)


def open_shard(folder: Path) -> Shard:
    """Map a shard's arrays; raises CacheError when a file is missing or sizes disagree."""
    try:
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("resid", "token_ids", "keep", "starts")
        }
        sources = _read_json(folder / "shard.json")["sources"]
    except (OSError, ValueError, KeyError) as error:
        raise CacheError(f"{folder}: damaged: {error}; delete the folder to harvest it again") from error
    shard = Shard(sources=sources, **arrays)
    if not len(shard.resid) == len(shard.token_ids) == len(shard.keep) == shard.starts[-1]:
        raise CacheError(f"{folder}: arrays of different lengths; delete the folder to harvest it again")
    return shard


def _write_array(path: Path, array: NDArray[Any]) -> None:  # Any: the element type
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: Path, value: dict[str, Any]) -> None:
    aside = path.with_suffix(".partial")
    with aside.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def _read_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value
