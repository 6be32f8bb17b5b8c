"""The sparse step against the plain dense form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_train.architectures.batch_topk import BatchTopKSae, BatchTopKSettings
from sae_train.architectures.trainable_sae import TrainingBatch

D_MODEL, D_SAE, K, ROWS = 12, 40, 3, 64


def make_sae(seed: int = 0) -> BatchTopKSae:
    generator = torch.Generator().manual_seed(seed)
    b_dec = 0.1 * torch.randn(D_MODEL, generator=generator)
    settings = BatchTopKSettings(k=K, auxk_alpha=0.5)
    sae = BatchTopKSae(settings, D_MODEL, D_SAE, b_dec=b_dec, generator=generator).double()
    sae.b_enc.data = 0.1 * torch.randn(D_SAE, generator=generator).double()
    return sae


def rows(seed: int = 5) -> Tensor:
    return torch.randn(ROWS, D_MODEL, generator=torch.Generator().manual_seed(seed)).double()


def dense_loss(sae: BatchTopKSae, x: Tensor, dead: Tensor) -> Tensor:
    """The same loss from dense tensors and autograd alone."""
    pre_acts = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    acts = torch.relu(pre_acts)
    smallest = acts.flatten().topk(K * len(x)).values.min()
    acts = acts * (acts >= smallest)
    error = x - acts @ sae.W_dec - sae.b_dec
    loss = error.square().mean()
    if dead.any():
        error = error.detach()
        revived = torch.relu((x - sae.b_dec).detach() @ sae.W_enc + sae.b_enc) * dead
        top = revived.topk(min(D_MODEL // 2, int(dead.sum())), dim=1)
        revived = torch.zeros_like(revived).scatter(1, top.indices, top.values)
        left = (error - revived @ sae.W_dec).square().mean()
        loss = loss + 0.5 * left / (error - error.mean(dim=0)).square().mean()
    return loss


@pytest.mark.parametrize("num_dead", [0, 4, 30])
def test_loss_and_gradients_are_those_of_the_dense_form(num_dead: int) -> None:
    sae, x = make_sae(), rows()
    dead = torch.arange(D_SAE) < num_dead
    expected = torch.autograd.grad(dense_loss(sae, x, dead), list(sae.parameters()))

    step = sae(TrainingBatch(x=x, dead=dead))
    step.loss.backward()

    torch.testing.assert_close(step.loss, dense_loss(sae, x, dead))
    for (name, parameter), gradient in zip(sae.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=lambda text, name=name: f"{name}: {text}")
    assert step.l0 == K
