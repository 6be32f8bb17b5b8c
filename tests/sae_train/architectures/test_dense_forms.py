"""Loss and gradients of every architecture against its plain dense form, in float64."""

from __future__ import annotations

import pytest
import torch

from sae_train.architectures.batch_topk import BatchTopKSettings
from sae_train.architectures.catalogue import build_sae
from sae_train.architectures.pre_acts import pre_act_blocks
from sae_train.architectures.topk import TopKSettings
from sae_train.architectures.trainable_sae import TrainableSae, TrainingBatch
from tests.sae_train.architectures.dense_forms import D_MODEL, D_SAE, SETTINGS, dense_loss, randomised

ROWS = 64
FREE_L0 = ("standard", "gated", "jumprelu", "jumprelu row", "jumprelu step")


def make_sae(name: str, generator: torch.Generator, *, b_enc: float = 0.0) -> TrainableSae:
    b_dec = 0.1 * torch.randn(D_MODEL, generator=generator)
    sae = build_sae(SETTINGS[name], D_MODEL, D_SAE, b_dec=b_dec, generator=generator)
    return randomised(sae, generator, b_enc=b_enc)


def make_batch(
    generator: torch.Generator, *, num_dead: int = 0, weighted: bool = False, progress: float = 1.0
) -> TrainingBatch:
    weights = torch.rand(ROWS, generator=generator).double() if weighted else None
    return TrainingBatch(
        x=torch.randn(ROWS, D_MODEL, generator=generator).double(),
        dead=torch.randperm(D_SAE, generator=generator) < num_dead,
        weights=None if weights is None else weights / weights.mean(),
        progress=progress,
    )


def assert_same_step(sae: TrainableSae, batch: TrainingBatch) -> None:
    step = sae(batch)  # first: it may start the thresholds
    step.loss.backward()
    loss = dense_loss(sae, batch)
    expected = torch.autograd.grad(loss, list(sae.parameters()))

    torch.testing.assert_close(step.loss, loss)
    for (name, parameter), gradient in zip(sae.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=lambda text, name=name: f"{name}: {text}")
        assert gradient.abs().max() > 0, f"{name} learns nothing"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradients_are_those_of_the_dense_form(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    assert_same_step(make_sae(name, generator), make_batch(generator))


@pytest.mark.parametrize("name", SETTINGS)
def test_row_weights_count_in_the_loss_and_not_in_the_mse(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    sae, batch = make_sae(name, generator), make_batch(generator, weighted=True, num_dead=10)
    plain = TrainingBatch(x=batch.x, dead=batch.dead)

    assert_same_step(sae, batch)

    torch.testing.assert_close(sae(batch).mse, sae(plain).mse)
    assert not torch.allclose(sae(batch).loss, sae(plain).loss)


@pytest.mark.parametrize("b_enc", [0.0, -1.5])
@pytest.mark.parametrize("name", FREE_L0)
def test_dense_and_sparse_products_give_the_same_step(name: str, b_enc: float) -> None:
    generator = torch.Generator().manual_seed(4)
    sae, batch = make_sae(name, generator, b_enc=b_enc), make_batch(generator)
    if name.startswith("jumprelu"):
        sae.started.fill_(True)  # or the first batch would set the thresholds for its L0
        sae.threshold.data.fill_(0.1)

    assert_same_step(sae, batch)

    is_sparse = bool(sae(batch).l0 < 0.08 * D_SAE)
    assert is_sparse == (b_enc < 0)


def test_rows_that_fill_several_blocks_are_one_batch() -> None:
    generator = torch.Generator().manual_seed(13)
    x = torch.randn(600, D_MODEL, generator=generator).double()
    for settings in (TopKSettings(k=3), BatchTopKSettings(k=3)):
        sae = build_sae(settings, D_MODEL, 8192, b_dec=torch.zeros(D_MODEL), generator=generator)
        sae = randomised(sae, generator, b_enc=-0.5)
        assert len(list(pre_act_blocks(sae, x))) == 3
        batch = TrainingBatch(x=x, dead=torch.zeros(8192, dtype=torch.bool))
        for _ in range(2):  # the second search begins where the first ended
            sae.zero_grad()
            assert_same_step(sae, batch)


@pytest.mark.parametrize("num_dead", [4, 30])
@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka_batch_topk"])
def test_dead_features_learn_from_what_is_left_over(name: str, num_dead: int) -> None:
    generator = torch.Generator().manual_seed(5)
    sae, batch = make_sae(name, generator), make_batch(generator, num_dead=num_dead)

    assert_same_step(sae, batch)

    assert 0 < float(sae(batch).parts["auxk"]) < 10


@pytest.mark.parametrize("name", FREE_L0)
def test_the_sparsity_loss_warms_up_over_the_first_twentieth(name: str) -> None:
    generator = torch.Generator().manual_seed(6)
    sae = make_sae(name, generator)

    for progress in (0.0, 0.01, 0.05, 0.5):
        sae.zero_grad()
        assert_same_step(sae, make_batch(generator, progress=progress))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_reports_who_was_active(name: str) -> None:
    generator = torch.Generator().manual_seed(7)
    sae, batch = make_sae(name, generator), make_batch(generator)
    step = sae(batch)
    acts = sae.reference_acts(batch.x)
    if sae.calibrated_l0 is not None:
        acts = acts * (acts >= acts.flatten().topk(sae.calibrated_l0 * ROWS).values.min())

    assert torch.equal(step.fired, (acts > 0).any(dim=0))
    assert float(step.l0) == pytest.approx(float((acts > 0).sum() / ROWS))
    x_hat = acts @ (sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)) + sae.b_dec
    torch.testing.assert_close(step.mse, (batch.x - x_hat).square().mean().detach())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_without_any_activation_is_a_step_too(name: str) -> None:
    generator = torch.Generator().manual_seed(8)
    sae, batch = make_sae(name, generator, b_enc=-100.0), make_batch(generator)

    step = sae(batch)
    step.loss.backward()

    assert step.l0 == 0
    assert not step.fired.any()
    assert all(torch.isfinite(parameter.grad).all() for parameter in sae.parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_the_state_dict_is_the_whole_state(name: str) -> None:
    generator = torch.Generator().manual_seed(9)
    sae = make_sae(name, generator)
    sae(make_batch(generator))
    other = make_sae(name, generator)

    other.load_state_dict(sae.state_dict())

    batch = make_batch(generator)
    assert torch.equal(other(batch).loss, sae(batch).loss)
    assert all(torch.equal(value, sae.state_dict()[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("name", SETTINGS)
def test_decoder_rows_keep_norm_one_to_first_order(name: str) -> None:
    generator = torch.Generator().manual_seed(10)
    sae = make_sae(name, generator)
    sae(make_batch(generator)).loss.backward()

    sae.constrain_gradient()

    assert sae.W_dec.grad is not None
    along = (sae.W_dec.grad * sae.W_dec).sum(dim=1)
    if name == "standard":  # whose norms are free
        assert along.abs().max() > 1e-4
        return
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)
    sae.W_dec.data *= 3
    sae.constrain_parameters()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE).double())


@pytest.mark.parametrize("scale", [0.25, 7.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_served_form_on_raw_rows_is_the_trained_one_on_scaled_rows(name: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(11)
    sae, batch = make_sae(name, generator), make_batch(generator)
    step = sae(batch)
    raw = batch.x / scale

    served = sae.to_inference(scale)

    torch.testing.assert_close(served.encode(raw) * scale, sae.reference_acts(batch.x))
    torch.testing.assert_close(served.W_dec.norm(dim=1), torch.ones(D_SAE).double())
    if sae.calibrated_l0 is None:
        error = raw - served.decode(served.encode(raw))
        torch.testing.assert_close(error.square().mean() * scale**2, step.mse)


# bfloat16 keeps 8 bits: each pre-activation is off by up to 1 / 256, and other entries may be chosen.
@pytest.mark.parametrize("name", SETTINGS)
def test_autocast_changes_a_step_by_its_rounding_only(name: str) -> None:
    generator = torch.Generator().manual_seed(12)
    sae, batch = make_sae(name, generator).float(), make_batch(generator)
    batch = TrainingBatch(x=batch.x.float(), dead=batch.dead)
    exact = sae(batch)
    exact.loss.backward()
    gradients = [parameter.grad for parameter in sae.parameters()]
    sae.zero_grad()

    with torch.autocast("cpu", torch.bfloat16):
        step = sae(batch)
    step.loss.backward()

    assert step.loss.dtype == step.mse.dtype == torch.float32
    torch.testing.assert_close(step.loss, exact.loss, rtol=0.02, atol=0)
    assert not torch.equal(step.loss, exact.loss)
    for parameter, gradient in zip(sae.parameters(), gradients, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert torch.cosine_similarity(parameter.grad.flatten(), gradient.flatten(), dim=0) > 0.98
