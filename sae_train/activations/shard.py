"""One shard of an activation cache: a folder with a run of token blocks and what the host made of them.

`token_ids.npy` [rows] int32, `keep.npy` [rows] bool, `starts.npy` [blocks + 1] int64 (where each block
begins), `shard.json` (row counts, the blocks' sources, and what had become of the corpus's documents when its
last block was taken), and for each hook point one `blocks.14.hook_resid_post.npy`
[rows, d_model] float16. The folder and each hook point's file are written aside and renamed: they are whole
or absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_train.activations.row_chunk import to_float16
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.token_blocks import TokenBlock
from steerd.errors import SteerdError
from steerd.host.hook_point import HookPoint

_ARRAYS = ("token_ids", "keep", "starts")


class CacheError(SteerdError):
    """An activation cache that is missing, damaged, cannot be written or was made for another run."""

    reason = "CACHE_ERROR"


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard; its activations stay on disk until they are asked for.

    Nothing is held open: a large cache has more shards than a process may have files.
    """

    folder: Path
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

    def resid(self, hook_point: HookPoint) -> NDArray[np.float16]:
        """Map the activations of a hook point, [rows, d_model]; CacheError when they are not there."""
        path = resid_path(self.folder, hook_point)
        try:
            array: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CacheError(f"{path}: damaged: {error}; delete the file to harvest it again") from error
        rows = self.starts[-1]
        if array.ndim != 2 or array.dtype != np.float16 or len(array) < rows:
            raise CacheError(
                f"{path}: must be float16 [{rows}, d_model], found {array.dtype} {list(array.shape)}; "
                f"delete the file to harvest it again"
            )
        return array[:rows]

    def read(self, hook_point: HookPoint, rows: NDArray[np.int64]) -> Tensor:
        """Copy the given rows of a hook point into memory, [len(rows), d_model] float32."""
        return torch.from_numpy(self.resid(hook_point)[rows].astype(np.float32))

    def row_blocks(self) -> NDArray[np.int64]:
        """Return each row's block, [rows]."""
        return np.repeat(np.arange(self.blocks), np.diff(self.starts))

    def token_blocks(self) -> list[TokenBlock]:
        """Return the blocks as the host saw them."""
        parts = [slice(int(a), int(b)) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]
        return [
            TokenBlock(self.token_ids[part].tolist(), self.keep[part].tolist(), source)
            for part, source in zip(parts, self.sources, strict=True)
        ]

    def first_tokens(self, tokens: int) -> Shard:
        """Return the shard's leading blocks up to the one that reaches `tokens` kept tokens."""
        kept = np.cumsum(self.keep)[self.starts[1:] - 1]  # kept tokens up to the end of each block
        blocks = min(int(np.searchsorted(kept, tokens)) + 1, self.blocks)
        rows = int(self.starts[blocks])
        return Shard(
            self.folder,
            self.token_ids[:rows],
            self.keep[:rows],
            self.starts[: blocks + 1],
            self.sources[:blocks],
        )


def resid_path(folder: Path, hook_point: HookPoint) -> Path:
    """Return where a shard keeps the activations of a hook point."""
    return folder / f"{hook_point}.npy"


def aside_path(folder: Path) -> Path:
    """Return where a shard is written before it is whole."""
    return folder.with_name(f"{folder.name}.partial")


def write_shard(
    folder: Path,
    blocks: Sequence[TokenBlock],
    resid: Mapping[HookPoint, Tensor],
    *,
    corpus: CorpusCounts | None = None,
) -> None:
    """Write one shard; each `resid` [rows, d_model] has the blocks in order. CacheError when it cannot be.

    `corpus` is of the stream up to the last block.
    """
    aside = aside_path(folder)
    keep = np.array([keep for block in blocks for keep in block.keep], dtype=np.bool_)
    arrays = {
        "token_ids": np.array([token_id for block in blocks for token_id in block.ids], dtype=np.int32),
        "keep": keep,
        "starts": np.cumsum([0] + [len(block.ids) for block in blocks], dtype=np.int64),
    }
    counts = {"kept_rows": int(keep.sum()), "rows": len(keep), "sources": [block.source for block in blocks]}
    so_far = {} if corpus is None else {"corpus": corpus.as_json()}
    with _clearing(folder, aside):
        aside.mkdir(parents=True, exist_ok=True)
        _clear(aside)
        for name, array in arrays.items():
            _write_array(aside / f"{name}.npy", array)
        for hook_point, acts in resid.items():
            assert len(acts) == len(keep)
            _write_array(resid_path(aside, hook_point), _array(acts))
        write_json(aside / "shard.json", counts | so_far)
        _sync_folder(aside)
        aside.rename(folder)
        _sync_folder(folder.parent)


def add_resid(folder: Path, resid: Mapping[HookPoint, Tensor]) -> None:
    """Add hook points, each [rows, d_model], to a shard that lacks them. CacheError when it cannot be."""
    for hook_point, acts in resid.items():
        path = resid_path(folder, hook_point)
        aside = path.with_suffix(".partial")
        with _clearing(path, aside):
            _write_array(aside, _array(acts))
            aside.rename(path)
            _sync_folder(folder)


def open_shard(folder: Path) -> Shard:
    """Read a shard but for its activations; raises CacheError when a file is missing or sizes disagree."""
    try:
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
        sources = read_json(folder / "shard.json")["sources"]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise CacheError(f"{folder}: damaged: {error}; delete the folder to harvest it again") from error
    shard = Shard(folder=folder, sources=sources, **arrays)
    if (
        not len(shard.token_ids) == len(shard.keep) == shard.starts[-1]
        or len(shard.starts) != shard.blocks + 1
    ):
        raise CacheError(f"{folder}: arrays of different lengths; delete the folder to harvest it again")
    return shard


def write_json(path: Path, value: dict[str, Any]) -> None:  # Any: JSON values
    """Write a JSON file aside, then rename it into place."""
    aside = path.with_suffix(".partial")
    with aside.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def read_json(path: Path) -> dict[str, Any]:  # Any: JSON values
    """Read a JSON object; raises OSError or ValueError."""
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return value


@contextmanager
def _clearing(target: Path, aside: Path) -> Iterator[None]:
    """Turn what goes wrong while writing into a CacheError, and leave nothing half-written."""
    try:
        yield
    except OSError as error:
        if aside.is_dir():
            _clear(aside)
            aside.rmdir()
        aside.unlink(missing_ok=True)
        raise CacheError(f"{target}: cannot be written: {error.strerror}; what is whole stays") from error


def _clear(folder: Path) -> None:
    # The folder itself stays: a process that harvests holds a lock on it.
    for path in folder.iterdir():
        path.unlink()


def _array(resid: Tensor) -> NDArray[np.float16]:
    acts = resid if resid.dtype == torch.float16 else to_float16(resid)
    array: NDArray[np.float16] = acts.cpu().contiguous().numpy()
    return array


def _write_array(path: Path, array: NDArray[Any]) -> None:  # Any: the element type
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(
            array.data
        )  # np.save goes through a C buffer, and loses in silence what a full disk refuses
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
