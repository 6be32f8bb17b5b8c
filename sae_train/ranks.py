"""The processes that train one SAE together: sums and gathers over them, free of charge when there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from steerd.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process's place among `size` equal ones; every rank makes the same calls in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks, of the same shape; a sum of one is the tensor itself."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every rank's tensor in rank order; they may differ in their first size."""
        if self.size == 1:
            return [tensor]
        length = torch.tensor([len(tensor)], device=tensor.device)
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        distributed.all_gather(lengths, length)
        longest = max(int(n) for n in lengths)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.zeros_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        return [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]


ALONE = Ranks()


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, with NCCL on CUDA and gloo elsewhere; alone without it.

    Raises ConfigError when CUDA is asked for and this process has no GPU of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    on_cuda = device.startswith("cuda")
    if on_cuda:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise ConfigError(f"host.device: process {local} needs a GPU of its own, found {found} in all")
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield Ranks(rank=distributed.get_rank(), size=size)
    finally:
        distributed.destroy_process_group()
