from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationError, ActivationScale, estimate_scale, row_norms
from sae_train.activations.row_chunk import RowChunk, RowCounts, StreamPlace
from sae_train.activations.shard import CacheError, write_shard
from sae_train.activations.training_data import LiveBlocks, TrainingData, sample_rows
from sae_train.activations.training_stream import TrainingStream
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.ranks import ALONE, Ranks
from steerd.host.host_model import HostModel
from tests.sae_train.activations.small_data import (
    BATCH_TOKENS,
    HOOK_POINTS,
    SHARD_TOKENS,
    empty_cache,
    harvested,
    kept,
    kept_tokens,
    random_blocks,
)
from tests.tiny_hosts import make_tiny_host

BLOCKS = random_blocks(60)
TOKENS = kept_tokens(BLOCKS[:50])  # what lies beyond is not the run's
NO_LIMIT = (ActivationScale(median_norm=1, outlier_limit=1e9, scale=1),) * 2


class Places(NamedTuple):
    chunks: list[RowChunk]
    places: list[StreamPlace]


def training_data(
    folder: Path,
    host: HostModel,
    *,
    cached_tokens: int | None,
    blocks: list[TokenBlock] = BLOCKS,
    ranks: Ranks = ALONE,
) -> TrainingData:
    wanted = TOKENS if cached_tokens is None else cached_tokens
    cache = harvested(folder, host, blocks, tokens=wanted)
    live = LiveBlocks(
        host=host, blocks=lambda: iter(blocks), batch_tokens=BATCH_TOKENS, shard_tokens=SHARD_TOKENS
    )
    return TrainingData(
        cache=cache,
        hook_points=HOOK_POINTS,
        tokens=TOKENS,
        cached_tokens=cached_tokens,
        live=live,
        ranks=ranks,
    )


def stream_of(
    data: TrainingData,
    scales: tuple[ActivationScale, ...] = NO_LIMIT,
    *,
    seed: int = 0,
    prefetch: bool = False,
    special: frozenset[int] = frozenset(),
) -> TrainingStream:
    return TrainingStream(data, scales, seed=seed, special_token_ids=special, prefetch=prefetch)


def passes(stream: TrainingStream, number: int) -> Places:
    """The chunks of the first `number` passes."""
    chunks, places = [], []
    for chunk, place in stream.chunks(StreamPlace()):
        if place.pass_number >= number:
            break
        chunks.append(chunk)
        places.append(place)
    return Places(chunks, places)


def acts_of(chunks: list[RowChunk]) -> Tensor:
    return torch.cat([chunk.acts for chunk in chunks])


def sorted_rows(acts: Tensor) -> Tensor:
    """Rows in an order of their own."""
    flat = acts.flatten(1).double()
    return flat[torch.argsort(flat @ torch.linspace(1, 2, flat.shape[1], dtype=torch.float64))]


@pytest.mark.parametrize("cached_tokens", [None, 0, 400])
def test_a_pass_gives_every_kept_row_once_cached_or_live(
    tiny_host: HostModel, tmp_path: Path, cached_tokens: int | None
) -> None:
    data = training_data(tmp_path / "run", tiny_host, cached_tokens=cached_tokens)
    whole = harvested(tmp_path / "whole", tiny_host, BLOCKS[:50])

    first = passes(stream_of(data), 1)

    rows = [
        torch.stack([torch.from_numpy(shard.resid(point).copy()) for point in HOOK_POINTS], dim=1)
        for shard in whole.shards("train", HOOK_POINTS)
    ]
    expected = kept(torch.cat(rows), BLOCKS[:50])
    torch.testing.assert_close(
        sorted_rows(acts_of(first.chunks)), sorted_rows(expected), rtol=1e-3, atol=1e-3
    )
    assert sum(chunk.counts.kept for chunk in first.chunks) == TOKENS
    assert first.places == [StreamPlace(0, number + 1) for number in range(len(first.chunks))]
    if cached_tokens == 0:
        assert torch.equal(acts_of(first.chunks), expected), "live blocks keep the corpus's order"


@pytest.mark.parametrize("cached_tokens", [None, 400])
def test_each_pass_has_another_order_that_follows_from_the_seed(
    tiny_host: HostModel, tmp_path: Path, cached_tokens: int | None
) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=cached_tokens)

    both = acts_of(passes(stream_of(data), 2).chunks)

    assert torch.equal(both, acts_of(passes(stream_of(data), 2).chunks))
    assert not torch.equal(both[:TOKENS], both[TOKENS:])
    assert not torch.equal(both, acts_of(passes(stream_of(data, seed=1), 2).chunks))
    assert torch.equal(sorted_rows(both[:TOKENS]), sorted_rows(both[TOKENS:]))


@pytest.mark.parametrize("cached_tokens", [None, 0, 400])
def test_the_stream_goes_on_from_any_place(
    tiny_host: HostModel, tmp_path: Path, cached_tokens: int | None
) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=cached_tokens)
    chunks, places = passes(stream_of(data), 2)

    for index, place in enumerate(places[:-1]):
        chunk, following = next(stream_of(data).chunks(place))
        assert following == places[index + 1]
        assert torch.equal(chunk.acts, chunks[index + 1].acts)


def test_a_longer_cache_than_the_run_asks_for_changes_nothing(tiny_host: HostModel, tmp_path: Path) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=400)
    before = passes(stream_of(data), 1)

    harvested(tmp_path, tiny_host, BLOCKS)

    after = passes(stream_of(data), 1)
    assert after.places == before.places
    assert torch.equal(acts_of(after.chunks), acts_of(before.chunks))


def test_a_corpus_that_ends_early_is_passed_over_again(tiny_host: HostModel, tmp_path: Path) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=400, blocks=BLOCKS[:30])

    chunks = passes(stream_of(data), 2).chunks

    assert sum(chunk.counts.kept for chunk in chunks) == 2 * kept_tokens(BLOCKS[:30])


def test_prefetching_changes_no_chunk_and_its_thread_ends(tiny_host: HostModel, tmp_path: Path) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=400)
    expected = passes(stream_of(data), 2)

    ahead = passes(stream_of(data, prefetch=True), 2)

    assert ahead.places == expected.places
    assert torch.equal(acts_of(ahead.chunks), acts_of(expected.chunks))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_rows_that_are_an_outlier_at_any_hook_point_are_left_out_and_counted(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=None)
    everything = acts_of(passes(stream_of(data), 1).chunks)
    norms = row_norms(everything)  # [rows, hook_points]
    limits = norms.quantile(0.9, dim=0)
    scales = tuple(ActivationScale(median_norm=1, outlier_limit=float(limit), scale=1) for limit in limits)

    chunks = passes(stream_of(data, scales), 1).chunks

    outlier = norms > limits
    assert torch.equal(acts_of(chunks), everything[~outlier.any(dim=1)])
    counts = sum((chunk.counts for chunk in chunks), RowCounts())
    assert counts.outliers == tuple(outlier.sum(dim=0).tolist())
    assert counts.dropped == int(outlier.any(dim=1).sum()) > max(counts.outliers)
    assert counts.kept + counts.dropped == TOKENS
    assert counts.outlier_shares(HOOK_POINTS) == {
        str(point): round(count / TOKENS, 6)
        for point, count in zip(HOOK_POINTS, counts.outliers, strict=True)
    }


@pytest.mark.parametrize("cached_tokens", [None, 0])
def test_rows_of_special_tokens_are_marked(
    tiny_host: HostModel, tmp_path: Path, cached_tokens: int | None
) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=cached_tokens)
    special = frozenset(range(0, 200, 7))

    chunks = passes(stream_of(data, special=special), 1).chunks

    ids = [i for block in BLOCKS[:50] for i, keep in zip(block.ids, block.keep, strict=True) if keep]
    marks = torch.cat([chunk.special for chunk in chunks])
    assert int(marks.sum()) == sum(token_id in special for token_id in ids) > 0
    if cached_tokens == 0:
        assert marks.tolist() == [token_id in special for token_id in ids]


def test_a_cache_without_shards_and_no_host_is_an_error(tmp_path: Path) -> None:
    data = TrainingData(cache=empty_cache(tmp_path), hook_points=HOOK_POINTS, tokens=100)

    with pytest.raises(CacheError, match="no training shard"):
        next(stream_of(data).chunks(StreamPlace()))
    with pytest.raises(CacheError, match="no training shard"):
        sample_rows(data, 10, torch.Generator())


@pytest.mark.parametrize("prefetch", [False, True])
def test_activations_that_are_not_finite_stop_the_stream(tmp_path: Path, prefetch: bool) -> None:
    host = make_tiny_host()
    data = training_data(tmp_path, host, cached_tokens=0)
    host.attach(HOOK_POINTS[1], lambda resid: resid.index_fill(0, torch.tensor([1]), float("nan")))

    with pytest.raises(ActivationError, match="not finite"):
        list(stream_of(data, prefetch=prefetch).chunks(StreamPlace()))


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_damaged_shard_stops_the_stream(tiny_host: HostModel, tmp_path: Path, prefetch: bool) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=None)
    path = data.cache.shard_path("train", 2) / f"{HOOK_POINTS[1]}.npy"
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(CacheError, match=r"train-00002.*damaged"):
        list(islice(stream_of(data, prefetch=prefetch).chunks(StreamPlace()), 99))


class ThreadRanks(Ranks):
    """Ranks that are threads of this process, meeting at a barrier."""

    meeting = threading.Barrier(2)
    brought: dict[int, Tensor] = {}  # noqa: RUF012  # shared by the ranks on purpose

    def gather(self, tensor: Tensor) -> list[Tensor]:
        self.brought[self.rank] = tensor
        self.meeting.wait(60)
        parts = [self.brought[rank] for rank in range(self.size)]
        self.meeting.wait(60)
        return parts


@pytest.mark.parametrize("prefetch", [False, True])
def test_two_ranks_share_the_hosts_work_and_see_the_chunks_of_one(
    tiny_host: HostModel, tmp_path: Path, prefetch: bool
) -> None:
    expected = passes(stream_of(training_data(tmp_path, tiny_host, cached_tokens=200)), 2)
    hosts = [make_tiny_host() for _ in range(2)]  # a host is one thread's at a time
    found: dict[int, Places] = {}

    def run(rank: int) -> None:
        data = training_data(tmp_path, hosts[rank], cached_tokens=200, ranks=ThreadRanks(rank=rank, size=2))
        found[rank] = passes(stream_of(data, prefetch=prefetch), 2)

    threads = [threading.Thread(target=run, args=[rank]) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    for rank in range(2):
        assert found[rank].places == expected.places
        assert torch.equal(acts_of(found[rank].chunks), acts_of(expected.chunks))


@pytest.mark.parametrize("cached_tokens", [None, 0, 400])
def test_a_sample_follows_from_the_generator_and_knows_the_scale(
    tiny_host: HostModel, tmp_path: Path, cached_tokens: int | None
) -> None:
    data = training_data(tmp_path, tiny_host, cached_tokens=cached_tokens)

    samples = [sample_rows(data, 300, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]

    assert samples[0].shape == (300, 2, 32)
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    everything = acts_of(passes(stream_of(data), 1).chunks)
    for index in range(2):
        of_sample = estimate_scale(samples[0][:, index], outlier_norm=10)
        of_all = estimate_scale(everything[:, index], outlier_norm=10)
        assert of_sample.scale == pytest.approx(of_all.scale, rel=0.1)


def test_a_sample_of_a_large_cache_comes_from_all_over_it(tmp_path: Path) -> None:
    cache = ActivationCache.open_or_create(tmp_path, {})
    block = TokenBlock([1] * 20, [False] + [True] * 19, "a")
    for number in range(20):
        resid = torch.full((20, 4), float(number))
        write_shard(cache.shard_path("train", number), [block], dict.fromkeys(HOOK_POINTS, resid))
    data = TrainingData(cache=cache, hook_points=HOOK_POINTS, tokens=10**6)

    sample = sample_rows(data, 40, torch.Generator())

    shards = sample[:, 0, 0].unique()
    assert len(sample) == 40
    assert len(shards) >= 8
    assert shards.max() >= 16
