from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationError
from sae_train.activations.claims import claimed
from sae_train.activations.harvest import next_pool
from sae_train.activations.shard import CacheError, aside_path, open_shard, resid_path
from sae_train.corpus.token_blocks import TokenBlock
from steerd.host.host_model import HostModel
from tests.sae_train.activations.small_data import (
    FIRST,
    HOOK_POINTS,
    LAST,
    SHARD_TOKENS,
    alone,
    files_of,
    harvested,
    kept_tokens,
    random_blocks,
)
from tests.tiny_hosts import make_tiny_host

BLOCKS = random_blocks(50)


def blocks_in(cache: ActivationCache) -> list[TokenBlock]:
    return [block for shard in cache.shards("train", HOOK_POINTS) for block in shard.token_blocks()]


def test_the_cache_holds_every_block_and_what_the_host_makes_of_it(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    heard: list[int] = []

    cache = harvested(tmp_path, tiny_host, BLOCKS, heard=heard)

    assert blocks_in(cache) == BLOCKS
    assert sum(heard) == cache.kept_tokens("train", HOOK_POINTS) == kept_tokens(BLOCKS)
    assert len(cache.shard_paths("train", HOOK_POINTS)) > 3
    for hook_point in HOOK_POINTS:
        rows = [
            torch.from_numpy(shard.resid(hook_point).copy()) for shard in cache.shards("train", [hook_point])
        ]
        expected = alone(tiny_host, BLOCKS, hook_point)
        torch.testing.assert_close(torch.cat(rows).float(), expected, rtol=2**-11 + 1e-4, atol=1e-4)


def test_a_shard_ends_with_the_block_that_reaches_its_tokens() -> None:
    stream = iter(BLOCKS)
    pools = []
    while pool := next_pool(stream, SHARD_TOKENS):
        pools.append(pool)

    assert [block for pool in pools for block in pool] == BLOCKS
    for pool in pools[:-1]:
        assert sum(len(block.ids) for block in pool[:-1]) < SHARD_TOKENS
        assert sum(len(block.ids) for block in pool) >= SHARD_TOKENS


def test_a_harvest_stops_with_the_shard_that_reaches_the_tokens_and_a_longer_one_goes_on(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    whole = files_of(harvested(tmp_path / "whole", tiny_host, BLOCKS).folder)

    short = harvested(tmp_path / "grown", tiny_host, BLOCKS, tokens=200)
    assert 200 <= short.kept_tokens("train", HOOK_POINTS) < 200 + SHARD_TOKENS + 40

    heard: list[int] = []
    before = short.kept_tokens("train", HOOK_POINTS)
    grown = harvested(tmp_path / "grown", tiny_host, BLOCKS, heard=heard)
    assert files_of(grown.folder) == whole
    assert sum(heard) == grown.kept_tokens("train", HOOK_POINTS) - before


def test_a_cache_that_has_enough_needs_neither_corpus_nor_host(tiny_host: HostModel, tmp_path: Path) -> None:
    harvested(tmp_path, tiny_host, BLOCKS, tokens=400)
    heard: list[int] = []

    harvested(tmp_path, tiny_host, [], tokens=400, heard=heard)

    assert heard == []


def test_missing_hook_points_come_from_the_stored_tokens(tiny_host: HostModel, tmp_path: Path) -> None:
    together = harvested(tmp_path / "together", tiny_host, BLOCKS)
    harvested(tmp_path / "apart", tiny_host, BLOCKS, hook_points=(FIRST,))
    resid_path(tmp_path / "apart" / "train-00001", FIRST).unlink()
    (tmp_path / "apart" / "train-00002" / f"{LAST}.partial").write_bytes(b"cut off")
    heard: list[int] = []

    apart = harvested(tmp_path / "apart", tiny_host, [], tokens=kept_tokens(BLOCKS), heard=heard)

    assert files_of(apart.folder) == files_of(together.folder)
    assert sum(heard) == kept_tokens(BLOCKS)


def test_a_shard_that_was_lost_is_harvested_again(tiny_host: HostModel, tmp_path: Path) -> None:
    cache = harvested(tmp_path, tiny_host, BLOCKS)
    whole = files_of(cache.folder)
    shutil.rmtree(cache.shard_path("train", 1))
    aside_path(cache.shard_path("train", 1)).mkdir()
    (aside_path(cache.shard_path("train", 1)) / "keep.npy").write_bytes(b"cut off")

    harvested(tmp_path, tiny_host, BLOCKS)

    assert files_of(cache.folder) == whole


def test_a_corpus_that_changed_under_the_cache_is_refused(tiny_host: HostModel, tmp_path: Path) -> None:
    harvested(tmp_path, tiny_host, BLOCKS, tokens=300)
    changed = [*BLOCKS[:3], *random_blocks(40, seed=1)]

    with pytest.raises(CacheError, match=r"train-00000: holds other tokens than the corpus now gives"):
        harvested(tmp_path, tiny_host, changed)


def test_a_corpus_that_became_shorter_is_refused(tiny_host: HostModel, tmp_path: Path) -> None:
    harvested(tmp_path, tiny_host, BLOCKS, tokens=300)

    with pytest.raises(CacheError, match=r"holds other tokens"):
        harvested(tmp_path, tiny_host, BLOCKS[:5])


def test_activations_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    host = make_tiny_host()
    host.attach(FIRST, lambda resid: resid * float("nan"))

    with pytest.raises(ActivationError, match=r"not finite.*host\.dtype"):
        harvested(tmp_path, host, BLOCKS)

    assert not (tmp_path / "train-00000").exists()


# In a forked process the host is there at once, and a kill is a kill.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def forked(work: Callable[[], None]) -> BaseProcess:
    def run() -> None:
        torch.set_num_threads(1)  # the parent's other threads did not come along
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def kill_at_event(number: int) -> None:
    """Have this process killed when it is about to write, rename or remove its number-th file or folder."""
    left = number

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        is_write = event == "open" and "w" in str(args[1])
        if is_write or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def test_a_harvest_killed_at_any_moment_ends_the_same(tiny_host: HostModel, tmp_path: Path) -> None:
    whole = files_of(harvested(tmp_path / "whole", tiny_host, BLOCKS).folder)
    moments = random.Random(0)
    kills = 0
    while True:
        moment = moments.randrange(25)

        def work(moment: int = moment) -> None:
            kill_at_event(moment)
            harvested(tmp_path / "killed", tiny_host, BLOCKS)

        process = forked(work)
        process.join(60)
        for path in (tmp_path / "killed").glob("train-?????"):
            for name, content in files_of(path).items():
                assert content == whole[f"{path.name}/{name}"], "what has its final name is whole"
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1

    assert kills >= 8
    assert files_of(tmp_path / "killed") == whole
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_a_process_killed_while_it_adds_a_hook_point_ends_the_same(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    whole = files_of(harvested(tmp_path / "whole", tiny_host, BLOCKS).folder)
    harvested(tmp_path / "killed", tiny_host, BLOCKS, hook_points=(LAST,))
    for moment in (1, 2, 3, 5):

        def work(moment: int = moment) -> None:
            kill_at_event(moment)
            harvested(tmp_path / "killed", tiny_host, [], tokens=kept_tokens(BLOCKS))

        process = forked(work)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL

    harvested(tmp_path / "killed", tiny_host, [], tokens=kept_tokens(BLOCKS))

    assert files_of(tmp_path / "killed") == whole


def test_two_processes_share_the_shards_of_one_cache(tiny_host: HostModel, tmp_path: Path) -> None:
    whole = files_of(harvested(tmp_path / "whole", tiny_host, BLOCKS).folder)
    context = multiprocessing.get_context("fork")
    begin, made = context.Barrier(2), context.Queue()

    def work() -> None:
        def count(event: str, args: tuple[object, ...]) -> None:
            if event == "os.rename" and str(args[1])[-5:].isdigit():
                made.put(str(args[1]))

        sys.addaudithook(count)
        begin.wait(60)
        harvested(tmp_path / "shared", tiny_host, BLOCKS)
        assert files_of(tmp_path / "shared") == whole, "each returns when all shards are there"

    processes = [forked(work), forked(work)]
    number = sum(name.endswith("shard.json") for name in whole)
    names = [made.get(timeout=60) for _ in range(number)]
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0, 0]
    assert len(set(names)) == number
    assert made.empty()


def test_a_shard_whose_process_died_is_made_by_the_one_that_waits(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    whole = files_of(harvested(tmp_path / "whole", tiny_host, BLOCKS).folder)
    number = sum(name.endswith("shard.json") for name in whole)
    context = multiprocessing.get_context("fork")
    holds, never, heard = context.Event(), context.Event(), context.Queue()

    def hold() -> None:
        with claimed(aside_path(tmp_path / "shared" / "train-00001"), wait=True):
            holds.set()
            never.wait(120)

    def work() -> None:
        harvested(tmp_path / "shared", tiny_host, BLOCKS, heard=Telling(heard))

    holder = forked(hold)
    assert holds.wait(60)
    worker = forked(work)
    done = 0
    others = kept_tokens(BLOCKS) - open_shard(tmp_path / "whole" / "train-00001").kept_rows
    while done < others:
        done += heard.get(timeout=60)
    assert worker.is_alive(), "it waits for the last shard"
    holder.kill()
    worker.join(60)

    assert worker.exitcode == 0
    assert files_of(tmp_path / "shared") == whole
    assert number > 2


class Telling(list[int]):
    """A list that tells another process what is appended."""

    def __init__(self, queue: object) -> None:
        super().__init__()
        self.append = queue.put  # type: ignore[method-assign,attr-defined]
