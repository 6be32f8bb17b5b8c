"""The arithmetic that reading whole dictionaries cannot do without, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from steerd.sae.autoencoder import SparseAutoencoder


class WholeEncoding:
    """Encodes rows by some SAEs and takes the strongest features of each row, in turn with other systems."""

    def __init__(self, saes: Sequence[SparseAutoencoder], *, rows: int, top_k: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._saes = saes
        self._top_k = top_k
        self._x = 5 * torch.randn(rows, saes[0].d_model, generator=generator)  # about a residual's size

    @torch.inference_mode()
    def step(self) -> float:
        """Do it once; the seconds that it took."""
        started = time.perf_counter()
        for sae in self._saes:
            sae.encode(self._x).topk(self._top_k)
        return time.perf_counter() - started
