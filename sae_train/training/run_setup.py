"""Everything a run needs before its first step: scales, stream, buffer, and every SAE's first weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sae_train.activations.activation_scale import ActivationScale, estimate_scale, geometric_median
from sae_train.activations.mixing_buffer import MixingBuffer
from sae_train.activations.training_data import TrainingData, sample_rows
from sae_train.activations.training_stream import TrainingStream
from sae_train.architectures.catalogue import build_sae
from sae_train.config import Config, SaeConfig
from sae_train.ranks import Ranks
from sae_train.training.sae_training import SaeTraining
from sae_train.training.trainer import Evaluate, Learner, Trainer
from steerd.errors import ConfigError

_SCALE_SAMPLE_ROWS = 131_072
_CENTRE_SAMPLE_ROWS = 32_768


def start_training(
    config: Config,
    data: TrainingData,
    *,
    special_token_ids: frozenset[int],
    device: torch.device,
    evaluate: Evaluate | None = None,
) -> Trainer:
    """Return the run's trainer, at its newest checkpoint if it has one; CheckpointError for another run's.

    `device` is where the SAEs are. Raises ConfigError when the ranks cannot share a batch evenly.
    """
    training, ranks = config.training, data.ranks
    if training.batch_size % ranks.size:
        size = training.batch_size
        raise ConfigError(
            f"training.batch_size: must be a multiple of the {ranks.size} processes, found {size}"
        )
    sample = sample_rows(data, _SCALE_SAMPLE_ROWS, torch.Generator().manual_seed(config.seed))
    origins = {
        point: _origin(sample[:, place].float(), training.outlier_norm)
        for place, point in enumerate(config.hook_points)
    }
    learners = [_learner(sae, config, origins[sae.hook_point], device, ranks) for sae in config.saes]
    stream = TrainingStream(
        data,
        [origins[point].scale for point in config.hook_points],
        seed=config.seed,
        special_token_ids=special_token_ids,
        prefetch=training.prefetch,
    )
    buffer = MixingBuffer(
        stream.chunks, batch_size=training.batch_size, buffer_rows=training.buffer_rows, seed=config.seed
    )
    return Trainer(config, learners, buffer, Path(config.output), ranks=ranks, evaluate=evaluate)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where learning at a hook point begins: its units, and the first b_dec [d_model] in them."""

    scale: ActivationScale
    b_dec: Tensor


def _origin(sample: Tensor, outlier_norm: float) -> _Origin:
    """Measure a sample [rows, d_model] of a hook point."""
    scale = estimate_scale(sample, outlier_norm=outlier_norm)
    inliers = sample[scale.is_inlier(sample)]
    # The sample comes shard after shard, so its beginning would be the first shard's.
    step = max(1, len(inliers) // _CENTRE_SAMPLE_ROWS)
    return _Origin(scale, geometric_median(inliers[::step][:_CENTRE_SAMPLE_ROWS] * scale.scale))


def _learner(sae: SaeConfig, config: Config, origin: _Origin, device: torch.device, ranks: Ranks) -> Learner:
    trainable = build_sae(
        sae.settings,
        len(origin.b_dec),
        sae.d_sae,
        b_dec=origin.b_dec.to(device),
        generator=torch.Generator().manual_seed(sae.seed),
    )
    training = SaeTraining(trainable, config.training, learning_rate=sae.learning_rate, ranks=ranks)
    return Learner(config=sae, training=training, scale=origin.scale)
