"""What there must be before a host is taken over: an attention that can be replaced, and memory."""

from __future__ import annotations

import os

import torch

from steerd.errors import ConfigError, HostError
from steerd.host.host_model import HostModel

GIB = 1 << 30


def bytes_per_token(host: HostModel) -> int:
    """Memory that the keys and values of one token take."""
    config = host.model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * kv_heads * head_dim * host.dtype.itemsize)


def check_memory(device: torch.device, kv_cache_gib: float) -> None:
    """Raise ConfigError for more memory than the device has."""
    if device.type == "cuda":
        free_gib = torch.cuda.mem_get_info(device)[0] / GIB
    else:
        free_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    if kv_cache_gib > free_gib:
        raise ConfigError(
            f"engine.kv_cache_gib is {kv_cache_gib:g}, but {device} has only {free_gib:.1f} GiB"
        )


def check_attention(host: HostModel) -> None:
    """Refuse what our attention would get wrong, rather than serve wrong text."""
    model = host.model
    if not getattr(model, "_supports_attention_backend", False):
        raise HostError(
            f"host {host.name!r} ({type(model).__name__}) has an attention that cannot be replaced"
        )
    if any(hasattr(module, "sinks") for module in model.modules()):
        raise HostError(
            f"host {host.name!r} ({type(model).__name__}) uses attention sinks, which are not supported"
        )
