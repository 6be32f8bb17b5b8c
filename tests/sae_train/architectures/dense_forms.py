"""Every architecture's loss from dense tensors and autograd alone: what the fast forms are compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_train.architectures.batch_topk import BatchTopKSae, BatchTopKSettings
from sae_train.architectures.gated import GatedSae, GatedSettings
from sae_train.architectures.jumprelu import JumpReLUSae, JumpReLUSettings
from sae_train.architectures.matryoshka import MatryoshkaSae, MatryoshkaSettings
from sae_train.architectures.standard import StandardSae, StandardSettings
from sae_train.architectures.topk import TopKSae, TopKSettings
from sae_train.architectures.trainable_sae import TrainableSae, TrainingBatch

D_MODEL, D_SAE = 12, 48

SETTINGS = {
    "standard": StandardSettings(l1_coefficient=2.0),
    "gated": GatedSettings(l1_coefficient=2.0),
    "topk": TopKSettings(k=3, auxk_alpha=0.5),
    "batch_topk": BatchTopKSettings(k=3, auxk_alpha=0.5),
    "matryoshka_batch_topk": MatryoshkaSettings(k=3, auxk_alpha=0.5, widths=(5, 20)),
    "jumprelu": JumpReLUSettings(target_l0=3.5, l0_coefficient=0.7, bandwidth=0.4),
    "jumprelu row": JumpReLUSettings(
        target_l0=3.5, sparsity_loss="row_quadratic", l0_coefficient=0.1, bandwidth=0.4
    ),
    "jumprelu step": JumpReLUSettings(
        target_l0=3.5, sparsity_loss="step", l0_coefficient=0.01, bandwidth=0.4
    ),
}


def dense_loss(sae: TrainableSae, batch: TrainingBatch) -> Tensor:
    """The batch's loss; `batch` is the whole batch, of one process."""
    pre_acts = (batch.x - sae.b_dec) @ sae.W_enc + sae.b_enc
    warm = min(1.0, batch.progress / 0.05)
    match sae:
        case StandardSae():
            acts = torch.relu(pre_acts)
            penalty = (acts * sae.W_dec.norm(dim=1)).sum(dim=1).mean() / D_MODEL
            return weighted_mse(sae, batch, acts) + warm * sae.settings.l1_coefficient * penalty
        case GatedSae():
            return gated_loss(sae, batch, warm)
        case TopKSae():
            k = sae.settings.k
            acts = torch.relu(pre_acts) * (pre_acts >= pre_acts.topk(k, dim=1).values[:, -1:])
            return weighted_mse(sae, batch, acts) + sae.settings.auxk_alpha * auxk(sae, batch, acts)
        case BatchTopKSae():  # a matryoshka is one too
            acts = torch.relu(pre_acts)
            smallest = acts.flatten().topk(sae.settings.k * len(batch.x)).values.min()
            acts = acts * (acts >= smallest)
            widths = [sae.d_sae]
            if isinstance(sae, MatryoshkaSae):
                widths = [*SETTINGS["matryoshka_batch_topk"].widths, D_SAE]  # type: ignore[union-attr]
            prefixes = [
                weighted_mse(sae, batch, acts * (torch.arange(sae.d_sae) < width)) for width in widths
            ]
            mse = torch.stack(prefixes).mean()
            return mse + sae.settings.auxk_alpha * auxk(sae, batch, acts)
        case JumpReLUSae():
            return jumprelu_loss(sae, batch, pre_acts, warm)
    raise AssertionError(sae)


def weighted_mse(sae: TrainableSae, batch: TrainingBatch, acts: Tensor) -> Tensor:
    error = batch.x - (acts @ sae.W_dec + sae.b_dec)
    return (weights_of(batch) * error.square()).mean()


def weights_of(batch: TrainingBatch) -> Tensor:
    weights = torch.ones(len(batch.x)) if batch.weights is None else batch.weights
    return weights.unsqueeze(1).to(batch.x.dtype)


def auxk(sae: TrainableSae, batch: TrainingBatch, acts: Tensor) -> Tensor:
    if not batch.dead.any():
        return torch.zeros(())
    error = (batch.x - (acts @ sae.W_dec + sae.b_dec)).detach()
    revived = torch.relu((batch.x - sae.b_dec).detach() @ sae.W_enc + sae.b_enc) * batch.dead
    top = revived.topk(min(D_MODEL // 2, int(batch.dead.sum())), dim=1)
    revived = torch.zeros_like(revived).scatter(1, top.indices, top.values)
    left = (weights_of(batch) * (error - revived @ sae.W_dec).square()).mean()
    return left / (weights_of(batch) * (error - error.mean(dim=0)).square()).mean()


def gated_loss(sae: GatedSae, batch: TrainingBatch, warm: float) -> Tensor:
    centred = batch.x - sae.b_dec
    gate = centred @ sae.W_enc + sae.b_enc
    magnitude = centred @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag
    open_gate = torch.relu(gate)
    frozen = open_gate @ sae.W_dec.detach() + sae.b_dec.detach()
    penalty = open_gate.sum(dim=1).mean() / D_MODEL
    return (
        weighted_mse(sae, batch, torch.relu(magnitude) * (gate > 0))
        + warm * sae.settings.l1_coefficient * penalty
        + (weights_of(batch) * (batch.x - frozen).square()).mean()
    )


def jumprelu_loss(sae: JumpReLUSae, batch: TrainingBatch, pre_acts: Tensor, warm: float) -> Tensor:
    settings = sae.settings
    acts = Jump.apply(pre_acts, sae.threshold, settings.bandwidth)  # type: ignore[no-untyped-call]
    l0 = Step.apply(pre_acts, sae.threshold, settings.bandwidth).sum(dim=1)  # type: ignore[no-untyped-call]
    counted = l0.mean() if settings.sparsity_loss == "quadratic" else l0
    sparsity = counted if settings.sparsity_loss == "step" else (counted / settings.target_l0 - 1) ** 2
    return weighted_mse(sae, batch, acts) + warm * settings.l0_coefficient * sparsity.mean()


class Jump(torch.autograd.Function):
    """z where z > threshold, with the derivatives of arXiv 2407.14435, equation 11."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return z * (z > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold = ctx.saved_tensors
        inside = ((z - threshold) / ctx.bandwidth).abs() < 0.5
        by_threshold = -(threshold / ctx.bandwidth) * inside * grads[0]
        return grads[0] * (z > threshold), by_threshold.sum(dim=0), None


class Step(torch.autograd.Function):
    """1 where z > threshold, with the derivatives of arXiv 2407.14435, equation 12."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, threshold = ctx.saved_tensors
        inside = ((z - threshold) / ctx.bandwidth).abs() < 0.5
        return None, (-(1 / ctx.bandwidth) * inside * grads[0]).sum(dim=0), None


def randomised(sae: TrainableSae, generator: torch.Generator, *, b_enc: float = 0.0) -> TrainableSae:
    """The SAE in float64 with every parameter off its start; decoder rows still of norm 1, but standard's."""
    sae = sae.double()
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            if name == "b_enc":
                parameter += b_enc
        sae.constrain_parameters()
    return sae
