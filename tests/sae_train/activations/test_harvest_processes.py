from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest
import torch

from sae_train.activations.claims import claimed
from sae_train.activations.shard import aside_path
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from tests.sae_train.activations.small_data import (
    HOOK_POINTS,
    LAST,
    files_of,
    harvested,
    kept_tokens,
    random_blocks,
)
from tests.tiny_hosts import make_tiny_host

BLOCKS = random_blocks(28)
TOKENS = kept_tokens(BLOCKS)


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Processes that begin with everything imported: each is forked from one that has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@pytest.fixture(scope="module")
def whole(context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a cache that was harvested in one go."""
    folder = tmp_path_factory.mktemp("whole")
    harvested_apart(context, folder, HOOK_POINTS)
    return files_of(folder)


def single_threaded_host() -> HostModel:
    """The host of each process here: with as many threads as cores they would wait for each other."""
    torch.set_num_threads(1)
    return make_tiny_host()


def harvest_all(folder: Path, hook_points: tuple[HookPoint, ...]) -> None:
    harvested(folder, single_threaded_host(), BLOCKS, hook_points=hook_points)


def harvested_apart(context: ForkServerContext, folder: Path, hook_points: tuple[HookPoint, ...]) -> None:
    """Harvest to the end in a process of its own."""
    process = started(context.Process(target=harvest_all, args=(folder, hook_points)))
    process.join(120)
    assert process.exitcode == 0


def number_of_shards(files: dict[str, bytes]) -> int:
    return sum(name.endswith("shard.json") for name in files)


def started(process: BaseProcess) -> BaseProcess:
    process.start()
    return process


def kill_at_write(number: int) -> None:
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


def harvest_until_killed(folder: Path, moment: int) -> None:
    host = single_threaded_host()
    kill_at_write(moment)
    harvested(folder, host, BLOCKS, tokens=TOKENS)


def harvest_until_a_file_is_too_large(folder: Path, size: int) -> None:
    host = single_threaded_host()
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, so that a write raises
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    harvested(folder, host, BLOCKS, tokens=TOKENS)


def moments(latest: int) -> Iterator[int]:
    generator = random.Random(0)
    while True:
        yield generator.randrange(latest)


def check_that_names_tell_what_is_whole(folder: Path, whole: dict[str, bytes]) -> None:
    for path in folder.glob("train-?????/*"):
        name = str(path.relative_to(folder))
        assert path.suffix == ".partial" or path.read_bytes() == whole[name], name


@pytest.mark.parametrize(("earlier_hook_points", "latest_moment"), [((), 25), ((LAST,), 7)])
def test_a_harvest_killed_at_any_moment_ends_as_an_uninterrupted_one(
    context: ForkServerContext,
    whole: dict[str, bytes],
    tmp_path: Path,
    earlier_hook_points: tuple[HookPoint, ...],
    latest_moment: int,
) -> None:
    if earlier_hook_points:
        harvested_apart(context, tmp_path, earlier_hook_points)
    kills = 0
    for moment in moments(latest_moment):
        process = started(context.Process(target=harvest_until_killed, args=(tmp_path, moment)))
        process.join(120)
        check_that_names_tell_what_is_whole(tmp_path, whole)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1

    assert kills >= 3
    assert files_of(tmp_path) == whole


@pytest.mark.parametrize(("earlier_hook_points", "size"), [((), 50), ((), 500), ((), 5000), ((LAST,), 5000)])
def test_a_harvest_killed_within_a_file_ends_as_an_uninterrupted_one(
    context: ForkServerContext,
    whole: dict[str, bytes],
    tmp_path: Path,
    earlier_hook_points: tuple[HookPoint, ...],
    size: int,
) -> None:
    if earlier_hook_points:
        harvested_apart(context, tmp_path, earlier_hook_points)

    process = started(context.Process(target=harvest_until_a_file_is_too_large, args=(tmp_path, size)))
    process.join(120)

    assert process.exitcode == -signal.SIGXFSZ
    assert any(path.is_file() and path.stat().st_size == size for path in tmp_path.rglob("*"))
    check_that_names_tell_what_is_whole(tmp_path, whole)
    harvested_apart(context, tmp_path, HOOK_POINTS)
    assert files_of(tmp_path) == whole


def harvest_and_tell(folder: Path, begin: Barrier, made: Queue[str], expected: dict[str, bytes]) -> None:
    host = single_threaded_host()

    def tell(event: str, args: tuple[object, ...]) -> None:
        if event == "os.rename" and str(args[1])[-5:].isdigit():
            made.put(str(args[1]))

    sys.addaudithook(tell)
    begin.wait(120)
    harvested(folder, host, BLOCKS)
    assert files_of(folder) == expected, "each returns when all shards are there"


def test_two_processes_share_the_shards_of_one_cache(
    context: ForkServerContext, whole: dict[str, bytes], tmp_path: Path
) -> None:
    made: Queue[str] = context.Queue()
    arguments = (tmp_path / "shared", context.Barrier(2), made, whole)

    processes = [started(context.Process(target=harvest_and_tell, args=arguments)) for _ in range(2)]
    names = [made.get(timeout=120) for _ in range(number_of_shards(whole))]
    for process in processes:
        process.join(120)

    assert [process.exitcode for process in processes] == [0, 0]
    assert len(set(names)) == number_of_shards(whole)
    assert made.empty()


def hold(folder: Path, holds: Event, never: Event) -> None:
    with claimed(folder, wait=True):
        holds.set()
        never.wait(120)


def harvest_and_tell_tokens(folder: Path, heard: Queue[int]) -> None:
    harvested(folder, single_threaded_host(), BLOCKS, on_tokens=heard.put)


def test_a_shard_whose_process_died_is_made_by_the_one_that_waits(
    context: ForkServerContext, whole: dict[str, bytes], tmp_path: Path
) -> None:
    holds, never = context.Event(), context.Event()
    heard: Queue[int] = context.Queue()
    shared = tmp_path / "shared"
    held = shared / "train-00001"

    holder = started(context.Process(target=hold, args=(aside_path(held), holds, never)))
    assert holds.wait(120)
    worker = started(context.Process(target=harvest_and_tell_tokens, args=(shared, heard)))
    done = 0
    while done < TOKENS - 190:  # all but those of one shard
        done += heard.get(timeout=120)
    assert not held.exists()
    holder.kill()
    worker.join(120)

    assert worker.exitcode == 0
    assert files_of(shared) == whole
