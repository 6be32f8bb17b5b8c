"""Which entries of the [rows, d_sae] activations a step works with, and the three products it needs of them.

With few entries, products with what is there cost less than dense ones; with many it is the other way
round. Both kinds offer the same, so that each architecture's maths is written once: `SparseEntries` hold
their values as [nnz], `AllEntries` as [rows, d_sae].
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

# Share of entries below which sparse products cost less. Measured on a CPU, d_model 576, d_sae 4,608: the
# four of a step took 0.2 of the dense ones' time at 3 % and 0.6 at 11 %.
_SPARSE_SHARE = 0.1


class Entries(Protocol):
    """A choice of entries; "values" are one number each."""

    def take(self, dense: Tensor) -> Tensor:
        """Return the values of a dense [rows, d_sae] matrix, in float32 where it has fewer bits."""

    def spread(self, vector: Tensor) -> Tensor:
        """Return what broadcasts with values: at each entry its feature's number of `vector` [d_sae]."""

    def times(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return values @ matrix: [rows, d_model] for a matrix [d_sae, d_model]."""

    def transposed_times(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return values.T @ matrix: [d_sae, d_model] for a matrix [rows, d_model]."""

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the values of left @ right.T, where left is [rows, d_model] and right [d_sae, d_model]."""

    def sum_by_feature(self, values: Tensor) -> Tensor:
        """Return each feature's sum over the rows: [d_sae]."""


def entries_where(mask: Tensor) -> Entries:
    """Return the entries where `mask` [rows, d_sae] is true, or all of them where that costs less."""
    flat = mask.view(-1).nonzero().squeeze(1)
    if len(flat) < _SPARSE_SHARE * mask.numel():
        return SparseEntries.from_flat(flat, (mask.shape[0], mask.shape[1]))
    device = mask.device.type
    return AllEntries(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)


@dataclass(frozen=True)
class SparseEntries:
    """Chosen entries, row by row; nothing else is computed, and nothing else gets gradient."""

    row_starts: Tensor
    """[rows + 1] where each row's entries begin."""
    rows: Tensor
    """[nnz], ascending."""
    features: Tensor
    """[nnz]."""
    shape: tuple[int, int]
    """rows, d_sae."""

    @classmethod
    def from_flat(cls, flat: Tensor, shape: tuple[int, int]) -> SparseEntries:
        """Build from ascending indices into the flattened [rows, d_sae] matrix."""
        rows = torch.div(flat, shape[1], rounding_mode="floor")
        return cls.from_coordinates(rows, flat - rows * shape[1], shape)

    @classmethod
    def from_coordinates(cls, rows: Tensor, features: Tensor, shape: tuple[int, int]) -> SparseEntries:
        """Build from each entry's row (ascending) and feature."""
        return cls(row_starts=_starts(rows, shape[0]), rows=rows, features=features, shape=shape)

    @classmethod
    def from_rows(cls, features: Tensor, d_sae: int) -> SparseEntries:
        """Build from an equal number of features a row: [rows, k]."""
        num_rows, k = features.shape
        row_starts = torch.arange(num_rows + 1, device=features.device) * k
        rows = torch.arange(num_rows, device=features.device).repeat_interleave(k)
        return cls(row_starts=row_starts, rows=rows, features=features.flatten(), shape=(num_rows, d_sae))

    def take(self, dense: Tensor) -> Tensor:
        """Return the values of a dense [rows, d_sae] matrix, in float32 where it has fewer bits."""
        return _at_least_float32(dense.view(-1)[self.rows * self.shape[1] + self.features])

    def spread(self, vector: Tensor) -> Tensor:
        """Return at each entry its feature's number of `vector` [d_sae]: [nnz]."""
        return vector.index_select(0, self.features)

    def times(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return values @ matrix: [rows, d_model] for a matrix [d_sae, d_model]."""
        return _sum_rows(self.features, values, self.row_starts, matrix)

    def transposed_times(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return values.T @ matrix: [d_sae, d_model] for a matrix [rows, d_model]."""
        order, rows, starts = self._by_feature
        return _sum_rows(rows, values[order], starts, matrix)

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the values of left @ right.T, where left is [rows, d_model] and right [d_sae, d_model]."""
        zeros = torch.zeros(len(self.rows), dtype=left.dtype, device=left.device)
        pattern = _compressed_rows(self.row_starts, self.features, zeros, self.shape)
        products: Tensor = torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0).values()
        return products

    def sum_by_feature(self, values: Tensor) -> Tensor:
        """Return each feature's sum over the rows: [d_sae]."""
        sums = torch.zeros(self.shape[1], dtype=values.dtype, device=values.device)
        return sums.index_add_(0, self.features, values)

    @cached_property
    def _by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The entries' order when sorted by feature, their rows in it, and where each feature begins."""
        order = torch.argsort(self.features, stable=True)
        return order, self.rows[order], _starts(self.features, self.shape[1])


@dataclass(frozen=True)
class AllEntries:
    """Every entry: plain dense products."""

    product_dtype: torch.dtype | None = None
    """In which the products run, in the backward pass too; None: as their factors are."""

    def take(self, dense: Tensor) -> Tensor:
        """Return the matrix itself, in float32 where it has fewer bits."""
        return _at_least_float32(dense)

    def spread(self, vector: Tensor) -> Tensor:
        """Return `vector` [d_sae], which broadcasts."""
        return vector

    def times(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return values @ matrix: [rows, d_model] for a matrix [d_sae, d_model]."""
        return self._product(values, matrix)

    def transposed_times(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return values.T @ matrix: [d_sae, d_model] for a matrix [rows, d_model]."""
        return self._product(values.t(), matrix)

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Return left @ right.T, where left is [rows, d_model] and right [d_sae, d_model]."""
        return self._product(left, right.t())

    def sum_by_feature(self, values: Tensor) -> Tensor:
        """Return each feature's sum over the rows: [d_sae]."""
        return values.sum(dim=0)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        if self.product_dtype is not None:
            left, right = left.to(self.product_dtype), right.to(self.product_dtype)
        return _at_least_float32(left @ right)


def _starts(ascending: Tensor, length: int) -> Tensor:
    """Where each of 0..length-1 begins in a list that is sorted, or would be: [length + 1]."""
    starts = torch.zeros(length + 1, dtype=torch.long, device=ascending.device)
    torch.cumsum(torch.bincount(ascending, minlength=length), dim=0, out=starts[1:])
    return starts


def _sum_rows(indices: Tensor, weights: Tensor, starts: Tensor, matrix: Tensor) -> Tensor:
    """The weighted sums of the matrix's rows at `indices`, a sum between every two starts."""
    return functional.embedding_bag(
        indices, matrix, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def _compressed_rows(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        # torch announces its sparse tensors as unfinished, once; what is used here has its own tests.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
