"""What an SAE computes and where it reads, as a few bytes: names may be given to others later."""

from __future__ import annotations

import hashlib
import struct

import torch

from steerd.host.hook_point import HookPoint
from steerd.sae.activation_function import JumpReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder


def sae_identity(sae: SparseAutoencoder, hook_point: HookPoint, weights_sha256: str) -> bytes:
    """32 bytes that depend on what an SAE computes and where it reads.

    An SAE that was read from a file goes by the hash of that file, and by what its config made of it.
    """
    activation = sae.activation
    tensors = [sae.b_enc, sae.b_dec]
    if not weights_sha256:
        tensors += [sae.W_enc, sae.W_dec]
    if isinstance(activation, JumpReLU):
        tensors.append(activation.threshold)
    top_k = activation.k if isinstance(activation, TopK) else 0
    names = weights_sha256, str(hook_point), type(activation).__name__, str(top_k)
    return hashlib.sha256(tagged("sae", *map(str.encode, names), *map(_tensor_bytes, tensors))).digest()


def tagged(tag: str, *parts: bytes) -> bytes:
    """A value's tag and parts; nothing else has these bytes, as every part says how long it is."""
    return b"".join(struct.pack("<Q", len(part)) + part for part in (tag.encode(), *parts))


def _tensor_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
