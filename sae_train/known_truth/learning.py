"""SAEs of several kinds learning from the same rows of a known truth, by the trainer's own step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.activations.activation_scale import estimate_scale, geometric_median
from sae_train.architectures.catalogue import Settings, build_sae
from sae_train.architectures.trainable_sae import TrainableSae
from sae_train.config import WARM_UP_SHARE, TrainingConfig
from sae_train.evaluation.calibration import calibrate_threshold, with_threshold
from sae_train.training.sae_training import SaeTraining
from steerd.sae.autoencoder import SparseAutoencoder

_CENTRE_ROWS = 32_768
_CALIBRATION_ROWS = 8192  # that are looked at together


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One SAE to be trained."""

    settings: Settings
    d_sae: int
    learning_rate: float
    warm_up_share: float = WARM_UP_SHARE
    """Share of the run over which the learning rate rises; counts in place of the common one."""
    seed: int
    """Seed of its first weights."""


def learn(
    candidates: Sequence[Candidate],
    batches: Iterable[Tensor],
    *,
    sample: Tensor,
    training: TrainingConfig,
    on_step: Callable[[int], None] = lambda _rows: None,
) -> list[SparseAutoencoder]:
    """Train the candidates side by side and return their served forms, float32.

    `batches` [batch_size, d_model] are `training.num_steps` at least; `sample` [rows, d_model], of other
    rows, gives scale and centre, and the thresholds that stand for a choice within a batch.
    """
    scale = estimate_scale(sample, outlier_norm=training.outlier_norm).scale
    b_dec = geometric_median(sample[:_CENTRE_ROWS] * scale)
    trainings = [_begin(candidate, b_dec, training) for candidate in candidates]
    for _, batch in zip(range(training.num_steps), batches, strict=False):
        x = batch * scale
        for one in trainings:
            one.step(x)
        on_step(len(batch))
    return [_served_form(one.sae, scale, sample) for one in trainings]


def _begin(candidate: Candidate, b_dec: Tensor, training: TrainingConfig) -> SaeTraining:
    generator = torch.Generator().manual_seed(candidate.seed)
    sae = build_sae(candidate.settings, len(b_dec), candidate.d_sae, b_dec=b_dec, generator=generator)
    own = dataclasses.replace(training, warm_up_share=candidate.warm_up_share)
    return SaeTraining(sae, own, learning_rate=candidate.learning_rate)


def _served_form(sae: TrainableSae, scale: float, sample: Tensor) -> SparseAutoencoder:
    """The plain form on unscaled rows, with a calibrated threshold where need be."""
    plain = sae.to_inference(scale).to(sample.device, dtype=torch.float32)
    if sae.calibrated_l0 is None:
        return plain
    rows = torch.split(sample, _CALIBRATION_ROWS)
    return with_threshold(plain, calibrate_threshold(plain, lambda: rows, k=sae.calibrated_l0))
