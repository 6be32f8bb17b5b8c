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

from sae_train.architectures.pre_acts import at_least_float32


class Entries(Protocol):
    """A choice of entries; "values" are one number each."""

    def spread(self, vector: Tensor) -> Tensor:
        """Return what broadcasts with values: at each entry its feature's number of `vector` [d_sae]."""

    def times(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return values @ matrix: [rows, d_model] for a matrix [d_sae, d_model]."""

    def transposed_times(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return values.T @ matrix: [d_sae, d_model] for a matrix [rows, d_model]."""

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the values of left @ right.T, where left is [rows, d_model] and right [d_sae, d_model]."""

    def sum_by_row(self, values: Tensor) -> Tensor:
        """Return each row's sum over the features: [rows]."""

    def sum_by_feature(self, values: Tensor) -> Tensor:
        """Return each feature's sum over the rows: [d_sae]."""


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
        """Build from indices into the flattened [rows, d_sae] matrix, row after row."""
        rows = torch.div(flat, shape[1], rounding_mode="floor")
        return cls.from_coordinates(rows, flat - rows * shape[1], shape)

    @classmethod
    def from_coordinates(cls, rows: Tensor, features: Tensor, shape: tuple[int, int]) -> SparseEntries:
        """Build from each entry's row (ascending) and feature."""
        return cls(row_starts=_starts(rows, shape[0]), rows=rows, features=features, shape=shape)

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

    def sum_by_row(self, values: Tensor) -> Tensor:
        """Return each row's sum over the features: [rows]."""
        sums = torch.zeros(self.shape[0], dtype=values.dtype, device=values.device)
        return sums.index_add(0, self.rows, values)

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

    product_dtype: torch.dtype
    """In which the products run, in the backward pass too."""

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

    def sum_by_row(self, values: Tensor) -> Tensor:
        """Return each row's sum over the features: [rows]."""
        return values.sum(dim=1)

    def sum_by_feature(self, values: Tensor) -> Tensor:
        """Return each feature's sum over the rows: [d_sae]."""
        return values.sum(dim=0)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        return at_least_float32(left.to(self.product_dtype) @ right.to(self.product_dtype))


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
