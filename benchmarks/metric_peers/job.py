"""What is measured on both sides: one SAE folder, one host, the same token ids."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PROMPTS_AT_ONCE = 4
"""Blocks whose logits over the whole vocabulary a peer holds at a time; a job's blocks are a multiple."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Written by the benchmark, read by the peers."""

    sae_folder: str
    host_folder: str
    layer_module: str
    """The host's module whose output the SAE reads, such as `model.layers.14`."""
    layer: int
    d_sae: int
    token_ids: list[list[int]]
    """Blocks of one length; each begins with `first_id`, which occurs nowhere else."""
    first_id: int

    def write(self, path: Path) -> None:
        """Save as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


def read_job() -> Job:
    """Return the job of the file that this script's command line names."""
    return Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


class BlockStore:
    """Stands where the peers have their store of activations: gives the job's blocks, in order."""

    def __init__(self, job: Job, prompts_at_once: int) -> None:
        self._blocks = torch.tensor(job.token_ids)  # [blocks, context]
        self._next = 0
        self.context_size = self._blocks.shape[1]
        self.store_batch_size_prompts = prompts_at_once

    def get_batch_tokens(self, batch_size: int) -> Tensor:
        """The next blocks [batch_size, context]."""
        self._next += batch_size
        return self._blocks[self._next - batch_size : self._next]

    def reset_input_dataset(self) -> None:
        """Begin anew."""
        self._next = 0


def print_metrics(metrics: dict[str, Any]) -> None:  # Any: JSON values
    """Print what was measured as the last line, where the benchmark looks for it."""
    print(json.dumps(metrics))
