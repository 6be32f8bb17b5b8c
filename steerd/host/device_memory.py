"""What a host takes of the memory of its device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch


def device_memory(device: torch.device) -> Mapping[str, Callable[[], int]]:
    """Bytes by kind, to be asked at any time: allocated to tensors, reserved by this process, limit of the
    device. Empty for the CPU, whose memory is the process's."""
    if device.type != "cuda":
        return {}
    limit: int = torch.cuda.get_device_properties(device).total_memory
    return {
        "allocated": partial(torch.cuda.memory_allocated, device),
        "reserved": partial(torch.cuda.memory_reserved, device),
        "limit": lambda: limit,
    }
