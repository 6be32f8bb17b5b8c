"""What a run's SAEs are trained and measured among: configuration, cache, host, log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.held_out import HeldOutRows, held_out_rows
from sae_train.activations.run_corpus import block_stream
from sae_train.activations.training_data import LiveBlocks, TrainingData
from sae_train.config import Config
from sae_train.labels.held_out_windows import HeldOutWindows, held_out_source, held_out_windows
from sae_train.ranks import Ranks
from sae_train.training.run_log import RunLog
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """One process's view of a run, apart from what it trains."""

    config: Config
    cache: ActivationCache
    host: HostModel
    log: RunLog

    def training_data(self, ranks: Ranks) -> TrainingData:
        """What the run trains on: the cached part, and the host for the rest."""
        config, data = self.config, self.config.data
        live = LiveBlocks(
            host=self.host,
            blocks=block_stream(data, self.host.tokenizer, "train", seed=config.seed),
            batch_tokens=data.batch_tokens,
            shard_tokens=data.shard_tokens,
        )
        return TrainingData(
            cache=self.cache,
            hook_points=config.hook_points,
            tokens=data.tokens,
            cached_tokens=data.cached_tokens,
            live=live,
            ranks=ranks,
        )

    def held_out(
        self, hook_point: HookPoint, scale: ActivationScale, *, tokens: int | None = None
    ) -> Iterator[HeldOutRows]:
        """Held-out activations of a hook point, outliers left out, the same each time.

        The configured number of tokens, or fewer where `tokens` says so.
        """
        limit = self.config.data.held_out_tokens if tokens is None else tokens
        return held_out_rows(self.cache, hook_point, scale, self.host.special_token_ids, tokens=limit)

    def held_out_windows(
        self, sae: SparseAutoencoder, hook_point: HookPoint, scale: ActivationScale
    ) -> HeldOutWindows:
        """The configured number of held-out tokens in windows, and what is active in each."""
        tokens = self.config.data.held_out_tokens
        source = held_out_source(self.cache, hook_point, scale, tokens=tokens)
        stage = self.log.stage("label tests", source.rows)
        return held_out_windows(sae, source, on_tokens=stage.advance)
