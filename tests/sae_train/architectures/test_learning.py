"""Every architecture finds directions that were planted, in seconds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_train.architectures.batch_topk import BatchTopKSettings
from sae_train.architectures.catalogue import Settings, build_sae
from sae_train.architectures.gated import GatedSettings
from sae_train.architectures.jumprelu import JumpReLUSettings
from sae_train.architectures.matryoshka import MatryoshkaSettings
from sae_train.architectures.standard import StandardSettings
from sae_train.architectures.topk import TopKSettings
from sae_train.architectures.trainable_sae import TrainingBatch

D_MODEL, D_SAE, ROWS, STEPS = 16, 24, 128, 400

SETTINGS: dict[str, Settings] = {
    "standard": StandardSettings(l1_coefficient=1.0),
    "gated": GatedSettings(l1_coefficient=3.0),
    "topk": TopKSettings(k=2),
    "batch_topk": BatchTopKSettings(k=2),
    "matryoshka_batch_topk": MatryoshkaSettings(k=2, widths=(12,)),
    "jumprelu": JumpReLUSettings(target_l0=2.0),
    "jumprelu row": JumpReLUSettings(
        target_l0=2.0, sparsity_loss="row_quadratic", l0_coefficient=1 / 8, encoder_norm=0.1
    ),
    "jumprelu step": JumpReLUSettings(target_l0=2.0, sparsity_loss="step", l0_coefficient=0.05),
}


def planted(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Directions [D_SAE, D_MODEL] of norm 1, and rows [STEPS, ROWS, D_MODEL] that are sums of about two."""
    directions = torch.randn(D_SAE, D_MODEL, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    acts = (torch.rand(STEPS, ROWS, D_SAE, generator=generator) < 2 / D_SAE).float()
    acts *= 1 + torch.rand(STEPS, ROWS, D_SAE, generator=generator)
    rows = acts @ directions
    return directions, rows * (D_MODEL / rows.square().sum(dim=2).mean()).sqrt()


@pytest.mark.parametrize("name", SETTINGS)
def test_planted_directions_are_found(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    directions, rows = planted(generator)
    sae = build_sae(SETTINGS[name], D_MODEL, D_SAE, b_dec=torch.zeros(D_MODEL), generator=generator)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-2, fused=True)
    since_fired = torch.zeros(D_SAE)

    losses = []
    for number, x in enumerate(rows):
        batch = TrainingBatch(x=x, dead=since_fired > 20, progress=number / STEPS)
        step = sae(batch)
        optimiser.zero_grad()
        step.loss.backward()
        sae.constrain_gradient()
        optimiser.step()
        sae.constrain_parameters()
        since_fired = (since_fired + 1) * ~step.fired
        losses.append(float(step.mse))

    learnt = sae.W_dec.detach() / sae.W_dec.detach().norm(dim=1, keepdim=True)
    found = (directions @ learnt.t()).max(dim=1).values
    assert losses[-1] < 0.3 * losses[0]
    assert found.mean() > 0.85
