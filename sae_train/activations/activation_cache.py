"""Host activations on disk: a folder of shards for one host and corpus, for any of the host's hook points.

Layout: `FOLDER/cache.json` (what was harvested, format version) and shard folders `train-00000/`,
`held_out-00000/`, ... (see `shard`). A shard is a run of consecutive blocks of a stream that is the same
each time, so a harvest that was cut off goes on after the last whole shard, and a longer one extends a
shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sae_train.activations.claims import claimed
from sae_train.activations.shard import CacheError, Shard, open_shard, read_json, resid_path, write_json
from steerd.host.hook_point import HookPoint

FORMAT_VERSION = 2
Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class ActivationCache:
    """A folder of shards for one host and corpus; `identity` says which."""

    folder: Path
    identity: dict[str, Any]  # Any: JSON values

    @classmethod
    def open_or_create(cls, folder: Path, identity: dict[str, Any]) -> ActivationCache:
        """Use the folder if it was made for the same `identity`, create it if absent; else CacheError."""
        path = folder / "cache.json"
        wanted = {"format_version": FORMAT_VERSION, **identity}
        try:
            with claimed(folder, wait=True):
                if not path.exists():
                    write_json(path, wanted)
            _check_same(folder, read_json(path), wanted)
        except (OSError, ValueError) as error:
            raise CacheError(f"{path}: {error}") from error
        return cls(folder=folder, identity=wanted)

    def shard_path(self, split: Split, number: int) -> Path:
        """Return where a shard is or will be."""
        return self.folder / f"{split}-{number:05d}"

    def shard_paths(
        self, split: Split, hook_points: Sequence[HookPoint], tokens: int | None = None
    ) -> list[Path]:
        """Return the leading shards of a split that hold all of the hook points, in order.

        Up to the one that reaches `tokens` kept tokens, where that is given.
        """
        paths: list[Path] = []
        kept = 0
        while (tokens is None or kept < tokens) and (path := self.shard_path(split, len(paths))).is_dir():
            if not all(resid_path(path, hook_point).exists() for hook_point in hook_points):
                break
            paths.append(path)
            kept += kept_rows(path) if tokens is not None else 0
        return paths

    def shards(
        self, split: Split, hook_points: Sequence[HookPoint], tokens: int | None = None
    ) -> Iterator[Shard]:
        """Open those shards in order, up to the block that reaches `tokens` kept tokens."""
        for path in self.shard_paths(split, hook_points):
            shard = open_shard(path)
            if tokens is not None:
                if tokens <= 0:
                    return
                shard = shard.first_tokens(tokens)
                tokens -= shard.kept_rows
            yield shard

    def kept_tokens(self, split: Split, hook_points: Sequence[HookPoint], tokens: int | None = None) -> int:
        """Count the kept tokens of those shards, the last one whole."""
        return sum(kept_rows(path) for path in self.shard_paths(split, hook_points, tokens))

    def corpus_counts(
        self, split: Split, hook_points: Sequence[HookPoint], tokens: int
    ) -> dict[str, Any] | None:  # Any: JSON values
        """Return what became of the documents that were read for those shards, each counted once.

        As `CorpusCounts.as_json` gives it; None when there is no shard, or it was written without counts.
        """
        paths = self.shard_paths(split, hook_points, tokens)
        return read_json(paths[-1] / "shard.json").get("corpus") if paths else None


def kept_rows(path: Path) -> int:
    """Read how many rows of a shard are trained on; CacheError when it cannot be read."""
    return _count(path, "kept_rows")


def all_rows(path: Path) -> int:
    """Read how many rows a shard has, each a token that the host saw; CacheError when it cannot be read."""
    return _count(path, "rows")


def _count(path: Path, name: str) -> int:
    try:
        return int(read_json(path / "shard.json")[name])
    except (OSError, ValueError, KeyError) as error:
        raise CacheError(f"{path}: damaged: {error}; delete the folder to harvest it again") from error


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise CacheError(
                f"{folder}: made for another run: {key} is {found.get(key)!r}, "
                f"this run has {wanted.get(key)!r}"
            )
