"""A sparse matrix of feature activations, and the two products a training step needs, with sparse gradients.

Shapes: B rows of a batch, nnz active entries in row order. Only the active entries' pre-activations carry
gradient, so the encoder's and the decoder's weight gradients are sparse-times-dense products.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor


class ActiveEntries(NamedTuple):
    """Which (row, feature) entries are active: compressed rows."""

    row_starts: Tensor  # [B + 1]
    rows: Tensor  # [nnz], ascending
    features: Tensor  # [nnz]
    shape: tuple[int, int]  # (B, d_sae)

    @classmethod
    def from_flat(cls, flat: Tensor, shape: tuple[int, int]) -> ActiveEntries:
        """Build from ascending indices into the flattened [B, d_sae] matrix."""
        rows = torch.div(flat, shape[1], rounding_mode="floor")
        features = flat - rows * shape[1]
        row_starts = torch.zeros(shape[0] + 1, dtype=torch.long, device=flat.device)
        torch.cumsum(torch.bincount(rows, minlength=shape[0]), dim=0, out=row_starts[1:])
        return cls(row_starts=row_starts, rows=rows, features=features, shape=shape)

    def fired(self) -> Tensor:
        """Which features are active in some row: [d_sae] bool."""
        fired = torch.zeros(self.shape[1], dtype=torch.bool, device=self.features.device)
        fired[self.features] = True
        return fired


def encode_entries(x: Tensor, W_enc: Tensor, b_enc: Tensor, values: Tensor, entries: ActiveEntries) -> Tensor:
    """Return `values` [nnz], the pre-activations x @ W_enc + b_enc at the entries, with their gradient.

    `values` were computed without gradient when the entries were chosen. x [B, d_model], W_enc
    [d_model, d_sae], b_enc [d_sae].
    """
    encoded: Tensor = _EncodeEntries.apply(x, W_enc, b_enc, values, entries)  # type: ignore[no-untyped-call]
    return encoded


def decode_entries(values: Tensor, W_dec: Tensor, entries: ActiveEntries) -> Tensor:
    """Return the sparse activations times W_dec [d_sae, d_model], without bias: [B, d_model]."""
    decoded: Tensor = _DecodeEntries.apply(values, W_dec, entries)  # type: ignore[no-untyped-call]
    return decoded


class _EncodeEntries(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, _b_enc: Tensor, values: Tensor, entries: ActiveEntries
    ) -> Tensor:  # Any: torch types no context
        ctx.save_for_backward(x, W_enc)
        ctx.entries = entries
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc = ctx.saved_tensors
        (grad,) = grads
        grad_x = grad_W_enc = None
        if ctx.needs_input_grad[0]:
            grad_x = _sparse(grad, ctx.entries) @ W_enc.t()
        if ctx.needs_input_grad[1]:
            grad_W_enc = (_transposed(grad, ctx.entries) @ x).t()
        grad_b_enc = torch.zeros(ctx.entries.shape[1], dtype=grad.dtype, device=grad.device)
        grad_b_enc.index_add_(0, ctx.entries.features, grad)
        return grad_x, grad_W_enc, grad_b_enc, None, None


class _DecodeEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, entries: ActiveEntries) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.entries = entries
        return _sparse(values, entries) @ W_dec

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        (grad,) = grads
        entries = ctx.entries
        pattern = _sparse(torch.zeros_like(values), entries)
        grad_values = torch.sparse.sampled_addmm(pattern, grad, W_dec.t(), beta=0.0).values()
        grad_W_dec = _transposed(values, entries) @ grad
        return grad_values, grad_W_dec, None


def _sparse(values: Tensor, entries: ActiveEntries) -> Tensor:
    """The [B, d_sae] matrix with these entries."""
    return _compressed_rows(entries.row_starts, entries.features, values, entries.shape)


def _transposed(values: Tensor, entries: ActiveEntries) -> Tensor:
    """The [d_sae, B] matrix with these entries."""
    rows, features = entries.shape
    order = torch.argsort(entries.features, stable=True)
    starts = torch.zeros(features + 1, dtype=torch.long, device=values.device)
    torch.cumsum(torch.bincount(entries.features, minlength=features), dim=0, out=starts[1:])
    return _compressed_rows(starts, entries.rows[order], values[order], (features, rows))


def _compressed_rows(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        # torch announces its sparse tensors as unfinished, once; what is used here has its own tests.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
