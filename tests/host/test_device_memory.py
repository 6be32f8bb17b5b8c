"""What is told of a device's memory."""

from __future__ import annotations

import pytest
import torch

from steerd.host.device_memory import device_memory


def test_the_memory_of_the_cpu_is_the_processs() -> None:
    assert device_memory(torch.device("cpu")) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_tensor_is_seen_in_the_memory_of_its_device() -> None:
    kinds = device_memory(torch.device("cuda", 0))
    before = kinds["allocated"]()

    held = torch.zeros(1 << 20, dtype=torch.uint8, device="cuda:0")

    assert kinds["allocated"]() - before >= held.nbytes
    assert kinds["allocated"]() <= kinds["reserved"]() <= kinds["limit"]()
