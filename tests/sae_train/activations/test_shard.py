from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_train.activations.shard import (
    CacheError,
    add_resid,
    aside_path,
    open_shard,
    resid_path,
    write_shard,
)
from tests.sae_train.activations.small_data import FIRST, LAST, files_of, random_blocks

BLOCKS = random_blocks(9)
ROWS = sum(len(block.ids) for block in BLOCKS)
RESID = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(1))


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """As on a full disk: the system refuses to write more than `size` bytes to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_shard_gives_back_its_blocks_and_rows(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-00000", BLOCKS, {FIRST: RESID})

    shard = open_shard(tmp_path / "train-00000")

    assert shard.token_blocks() == BLOCKS
    assert shard.kept_rows == sum(block.kept_tokens for block in BLOCKS)
    assert torch.equal(torch.from_numpy(shard.resid(FIRST).copy()), RESID.half())
    rows = np.array([5, 2, ROWS - 1])
    assert torch.equal(shard.read(FIRST, rows), RESID.half()[rows].float())
    assert shard.row_blocks().tolist() == [i for i, block in enumerate(BLOCKS) for _ in block.ids]


def test_rows_beyond_float16_are_held_at_its_end_whatever_their_dtype(tmp_path: Path) -> None:
    sinks = RESID.bfloat16()
    sinks[3] = 1e30
    sinks[4] = -65504.0

    write_shard(tmp_path / "train-00000", BLOCKS, {FIRST: sinks})

    found = torch.from_numpy(open_shard(tmp_path / "train-00000").resid(FIRST).copy())
    assert (found[3] == 65504).all()
    assert (found[4] == -65504).all()


def test_a_hook_point_is_added_to_a_whole_shard(tmp_path: Path) -> None:
    folder = tmp_path / "train-00000"
    write_shard(folder, BLOCKS, {FIRST: RESID})
    before = files_of(folder)

    add_resid(folder, {LAST: 2 * RESID})

    shard = open_shard(folder)
    assert torch.equal(torch.from_numpy(shard.resid(LAST).copy()), (2 * RESID).half())
    assert files_of(folder) == before | {f"{LAST}.npy": resid_path(folder, LAST).read_bytes()}


def test_the_leading_blocks_are_those_that_reach_the_tokens(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-00000", BLOCKS, {FIRST: RESID})
    shard = open_shard(tmp_path / "train-00000")
    two = sum(block.kept_tokens for block in BLOCKS[:2])

    assert shard.first_tokens(two).token_blocks() == BLOCKS[:2]
    assert shard.first_tokens(two + 1).token_blocks() == BLOCKS[:3]
    assert shard.first_tokens(1).token_blocks() == BLOCKS[:1]
    assert shard.first_tokens(10**9).token_blocks() == BLOCKS
    cut = shard.first_tokens(two)
    assert len(cut.resid(FIRST)) == len(cut.token_ids) == sum(len(block.ids) for block in BLOCKS[:2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "token_ids.npy").write_bytes(b""),
        lambda folder: (folder / "keep.npy").unlink(),
        lambda folder: (folder / "shard.json").write_text('{"sources": ["a"'),
        lambda folder: (folder / "shard.json").write_text('{"sources": ["a"]}'),
        lambda folder: (folder / "shard.json").write_text("[]"),
        lambda folder: np.save(folder / "keep.npy", np.ones(3, dtype=bool)),
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "train-00000"
    write_shard(folder, BLOCKS, {FIRST: RESID})
    damage(folder)

    with pytest.raises(CacheError, match=r"train-00000.*delete the folder"):
        open_shard(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-64]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: np.save(path, RESID.numpy()),
        lambda path: np.save(path, RESID.half().numpy()[:-1]),
    ],
)
def test_damaged_activations_are_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "train-00000"
    write_shard(folder, BLOCKS, {FIRST: RESID})
    damage(resid_path(folder, FIRST))

    with pytest.raises(CacheError, match=rf"{FIRST}.npy.*delete the file"):
        open_shard(folder).resid(FIRST)


@pytest.mark.parametrize("size", [0, 200, 2000])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "train-00000"

    with (
        files_up_to(size),
        pytest.raises(CacheError, match=r"train-00000: cannot be written: File too large"),
    ):
        write_shard(folder, BLOCKS, {FIRST: RESID})

    assert list(tmp_path.iterdir()) == []
    write_shard(folder, BLOCKS, {FIRST: RESID})
    assert not aside_path(folder).exists()


def test_a_full_disk_leaves_a_shard_as_it_was_when_a_hook_point_is_added(tmp_path: Path) -> None:
    folder = tmp_path / "train-00000"
    write_shard(folder, BLOCKS, {FIRST: RESID})
    before = files_of(folder)

    with files_up_to(1000), pytest.raises(CacheError, match=f"{LAST}.npy: cannot be written"):
        add_resid(folder, {LAST: RESID})

    assert files_of(folder) == before
