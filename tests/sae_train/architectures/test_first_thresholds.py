"""Where the thresholds of a JumpReLU SAE start."""

from __future__ import annotations

import pytest
import torch

from sae_train.architectures.catalogue import build_sae
from sae_train.architectures.jumprelu import JumpReLUSettings
from sae_train.architectures.trainable_sae import TrainingBatch

D_MODEL, D_SAE = 16, 128


def test_thresholds_start_where_eight_times_the_aimed_features_are_active() -> None:
    generator = torch.Generator().manual_seed(0)
    sae = build_sae(
        JumpReLUSettings(target_l0=4.0), D_MODEL, D_SAE, b_dec=torch.zeros(D_MODEL), generator=generator
    )
    x = torch.randn(512, D_MODEL, generator=generator)

    step = sae(TrainingBatch(x=x, dead=torch.zeros(D_SAE, dtype=torch.bool)))

    assert float(step.l0) == pytest.approx(8 * 4.0, rel=0.01)
