"""Hosts that many tests share; nothing here needs a network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from steerd.host.host_model import HostModel

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported


# The fixtures import what they need themselves: tests that use neither must not wait for transformers.
@pytest.fixture(scope="session")
def tiny_host() -> HostModel:
    """A random three-layer Llama with d_model 32 and one token a byte. Take off the hooks that you attach."""
    from tests.tiny_hosts import make_tiny_host

    return make_tiny_host("llama")


@pytest.fixture(scope="session")
def real_host() -> HostModel:
    """The default host; its first use on a machine converts it, which takes half a minute."""
    from steerd.host.default_host import DEFAULT_HOST_ALIAS
    from steerd.host.host_model import HostModel

    return HostModel.load(DEFAULT_HOST_ALIAS)
