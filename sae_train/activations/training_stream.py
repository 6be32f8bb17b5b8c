"""The rows of a run's training data as an endless stream of chunks, pass after pass."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import count

import torch

from sae_train.activations.activation_scale import ActivationError, ActivationScale, row_norms
from sae_train.activations.prefetch import prefetched
from sae_train.activations.row_chunk import RowChunk, RowCounts, StreamPlace
from sae_train.activations.seeds import derived_generator
from sae_train.activations.shard import CacheError
from sae_train.activations.training_data import KeptRows, PoolPart, TrainingData


class TrainingStream:
    """Chunks of a run's training data without its outliers; the same for the same data and seed.

    In each pass the cached shards come in an order drawn anew, then the live pools in the corpus's order.
    """

    def __init__(
        self,
        data: TrainingData,
        scales: Sequence[ActivationScale],
        *,
        seed: int,
        special_token_ids: frozenset[int],
        prefetch: bool = False,
    ) -> None:
        """`scales` are those of the data's hook points; with `prefetch`, a thread works one chunk ahead."""
        self._data = data
        self._limits = torch.tensor([scale.outlier_limit for scale in scales])
        self._seed = seed
        self._special = torch.tensor(sorted(special_token_ids), dtype=torch.int64)
        self._prefetch = prefetch

    def chunks(self, start: StreamPlace) -> Generator[tuple[RowChunk, StreamPlace], None, None]:
        """Yield chunk after chunk from `start` on, each with the place after it; never ends.

        Raises CacheError when there are no rows at all, ActivationError when some are not finite.
        """
        pieces = self._pieces(start)
        with closing(prefetched(pieces) if self._prefetch else pieces) as ready:
            for piece, place in ready:
                # Here and not in the other thread: the ranks' calls must come in one order.
                rows = self._data.live_rows(piece) if isinstance(piece, PoolPart) else piece
                yield self._chunk(rows), place

    def _pieces(self, start: StreamPlace) -> Generator[tuple[KeptRows | PoolPart, StreamPlace], None, None]:
        cached = self._data.cached_parts()
        first = start.chunk
        for number in count(start.pass_number):
            generator = derived_generator(self._seed, "pass", number)
            order = torch.randperm(len(cached), generator=generator).tolist()
            at = first
            for index in order[first:]:
                at += 1
                yield self._data.cached_rows(cached[index].open()), StreamPlace(number, at)
            for pool in self._data.live_pools(cached, max(0, first - len(cached))):
                at += 1
                yield pool, StreamPlace(number, at)
            if at == 0:
                raise CacheError(f"{self._data.cache.folder}: holds no training shard")
            first = 0

    def _chunk(self, rows: KeptRows) -> RowChunk:
        norms = row_norms(rows.acts)  # [rows, hook_points]
        if bool(norms.isnan().any()):
            raise ActivationError("the host's activations are not finite; run it with a wider host.dtype")
        outlier = norms > self._limits.to(norms.device)
        inlier = ~outlier.any(dim=1)
        kept = int(inlier.sum())
        counts = RowCounts(kept=kept, dropped=len(inlier) - kept, outliers=tuple(outlier.sum(dim=0).tolist()))
        special = torch.isin(rows.token_ids, self._special).to(inlier.device)
        return RowChunk(acts=rows.acts[inlier], special=special[inlier], counts=counts)
