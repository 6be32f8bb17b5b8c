"""The sparse step against the plain dense form, and against a truth that was planted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_train.architectures.batch_topk import BatchTopKSae, largest_entries

D_MODEL, D_SAE, K, ROWS = 12, 40, 3, 64


def make_sae(seed: int = 0) -> BatchTopKSae:
    generator = torch.Generator().manual_seed(seed)
    b_dec = 0.1 * torch.randn(D_MODEL, generator=generator)
    sae = BatchTopKSae(D_MODEL, D_SAE, K, b_dec=b_dec, generator=generator).double()
    sae.b_enc.data = 0.1 * torch.randn(D_SAE, generator=generator).double()
    return sae


def batch(seed: int = 5, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, D_MODEL, generator=torch.Generator().manual_seed(seed)).double()


def dense_loss(sae: BatchTopKSae, x: Tensor, dead: Tensor, auxk_alpha: float) -> Tensor:
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
        loss = loss + auxk_alpha * left / (error - error.mean(dim=0)).square().mean()
    return loss


@pytest.mark.parametrize("num_dead", [0, 4, 30])
def test_loss_and_gradients_are_those_of_the_dense_form(num_dead: int) -> None:
    sae, x = make_sae(), batch()
    dead = torch.arange(D_SAE) < num_dead
    expected = torch.autograd.grad(dense_loss(sae, x, dead, 0.5), list(sae.parameters()))

    step = sae(x, dead=dead, auxk_alpha=0.5)
    step.loss.backward()

    torch.testing.assert_close(step.loss, dense_loss(sae, x, dead, 0.5))
    for (name, parameter), gradient in zip(sae.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=lambda text, name=name: f"{name}: {text}")
    assert step.l0 == K


@pytest.mark.parametrize("start", [0.0, 0.5, 2.0, 100.0])
def test_the_search_for_the_largest_entries_is_exact_wherever_it_starts(start: float) -> None:
    pre_acts = torch.randn(50, 30, generator=torch.Generator().manual_seed(1))

    indices, values = largest_entries(pre_acts, 100, start=start)

    expected = pre_acts.flatten().topk(100)
    assert torch.equal(indices, expected.indices.sort().values)
    assert torch.equal(values, pre_acts.flatten()[indices])


def test_only_positive_entries_are_chosen() -> None:
    pre_acts = torch.tensor([[1.0, -1.0, 0.0], [-2.0, 3.0, -4.0]])

    indices, values = largest_entries(pre_acts, 4, start=0.0)

    assert indices.tolist() == [0, 4]
    assert values.tolist() == [1.0, 3.0]


def test_a_batch_without_any_activation_is_a_step_too() -> None:
    sae = make_sae()
    sae.b_enc.data.fill_(-100.0)

    step = sae(batch(), dead=torch.zeros(D_SAE, dtype=torch.bool), auxk_alpha=0.0)
    step.loss.backward()

    assert step.l0 == 0
    assert not step.fired.any()


def test_decoder_rows_keep_norm_one_to_first_order() -> None:
    sae = make_sae()
    sae(batch(), dead=torch.zeros(D_SAE, dtype=torch.bool), auxk_alpha=0.0).loss.backward()

    sae.remove_parallel_gradient()

    assert sae.W_dec.grad is not None
    along = (sae.W_dec.grad * sae.W_dec).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-6, rtol=0)
    sae.W_dec.data *= 3
    sae.normalise_decoder()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE).double())


def test_the_served_form_on_raw_rows_is_the_trained_one_on_scaled_rows() -> None:
    sae, raw, scale, threshold = make_sae(), batch(), 0.25, 0.3
    scaled = raw * scale
    pre_acts = (scaled - sae.b_dec) @ sae.W_enc + sae.b_enc
    acts = torch.relu(pre_acts) * (pre_acts > threshold)

    served = sae.to_inference(scale, threshold)

    torch.testing.assert_close(served.encode(raw), (acts / scale).detach())
    torch.testing.assert_close(
        served.decode(served.encode(raw)), ((acts @ sae.W_dec + sae.b_dec) / scale).detach()
    )
    torch.testing.assert_close(served.W_dec.norm(dim=1), torch.ones(D_SAE).double())
