"""Encoder and decoder at chosen entries, with gradients that are products with those entries alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_train.architectures.entries import Entries
from sae_train.architectures.trainable_sae import TrainableSae


@torch.no_grad()
def centred_and_pre_acts(sae: TrainableSae, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x - b_dec [rows, d_model] and all pre-activations [rows, d_sae], from which entries are chosen.

    Under autocast the product, and so the pre-activations, have its dtype.
    """
    centred = x - sae.b_dec
    return centred, torch.addmm(sae.b_enc, centred, sae.W_enc)


def encode(sae: TrainableSae, centred: Tensor, pre_acts: Tensor, entries: Entries) -> Tensor:
    """Return the pre-activations at the entries, as values with gradient; the rest is without."""
    values = entries.take(pre_acts)
    encoded: Tensor = _Encode.apply(sae.b_dec, sae.W_enc, sae.b_enc, values, centred, entries)  # type: ignore[no-untyped-call]
    return encoded


def decode(values: Tensor, W_dec: Tensor, entries: Entries) -> Tensor:
    """Return the activations at the entries times W_dec [d_sae, d_model], without bias: [rows, d_model]."""
    decoded: Tensor = _Decode.apply(values, W_dec, entries)  # type: ignore[no-untyped-call]
    return decoded


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # Any: torch types no context
        _b_dec: Tensor,
        W_enc: Tensor,
        _b_enc: Tensor,
        values: Tensor,
        centred: Tensor,
        entries: Entries,
    ) -> Tensor:
        ctx.save_for_backward(W_enc, centred)
        ctx.entries = entries
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        W_enc, centred = ctx.saved_tensors
        grad_b_enc = ctx.entries.sum_by_feature(grads[0])
        grad_W_enc = ctx.entries.transposed_times(grads[0], centred).t()
        # b_dec is taken from every row alike, so the sum over the rows comes before the product.
        return -(W_enc @ grad_b_enc), grad_W_enc, grad_b_enc, None, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.entries = entries
        return entries.times(values, W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        grad_W_dec = None
        if ctx.needs_input_grad[1]:
            grad_W_dec = ctx.entries.transposed_times(values, grads[0])
        return ctx.entries.products(grads[0], W_dec), grad_W_dec, None
