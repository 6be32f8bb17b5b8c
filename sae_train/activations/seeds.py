"""One generator for each use of chance in a run, all from the run's one seed."""

from __future__ import annotations

from hashlib import blake2b

import torch


def derived_generator(seed: int, *use: int | str) -> torch.Generator:
    """Return a generator that depends on the seed and on its use, and on nothing drawn elsewhere."""
    digest = blake2b(repr((seed, *use)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
