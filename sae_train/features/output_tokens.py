"""The tokens whose logits a feature's direction raises or lowers, as if no later layer touched it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder

_FEATURES_AT_ONCE = 256


class OutputTokens(NamedTuple):
    """Tokens with the largest effect on each feature's side, every tensor [features, count].

    An effect is counted in standard deviations of that token's effect over all features.
    """

    promoted: Tensor
    promoted_effects: Tensor
    suppressed: Tensor
    suppressed_effects: Tensor


@torch.no_grad()
def output_tokens(
    host: HostModel, sae: SparseAutoencoder, *, count: int, features: int | None = None
) -> OutputTokens:
    """Read the decoder directions of the first `features` features (all of them if None) as logits.

    Each direction passes the final norm's gain and the head, and what all features have in common is taken
    off. Effects are then divided by their spread over the features: some rare tokens have so long a row in
    the head that they would come first for hundreds of features.
    """
    embeddings = host.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    head = embeddings.weight.float().cpu()  # [vocab, d_model]
    head = head - head.mean(dim=0)
    directions = sae.W_dec.cpu() * final_norm_gain(host)  # [d_sae, d_model]
    centred = directions - directions.mean(dim=0)
    covariance = centred.t() @ centred / len(centred)  # [d_model, d_model]
    spread = ((head @ covariance) * head).sum(dim=1).clamp(min=1e-12).sqrt()  # [vocab]
    chunks = []
    for chunk in torch.split(centred[:features], _FEATURES_AT_ONCE):
        effects = (chunk @ head.t()) / spread  # [chunk, vocab]
        raised, lowered = effects.topk(count, dim=1), effects.topk(count, dim=1, largest=False)
        chunks.append((raised.indices, raised.values, lowered.indices, lowered.values))
    return OutputTokens(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


@torch.no_grad()
def final_norm_gain(host: HostModel) -> Tensor:
    """What the norm before the head multiplies each dimension by, [d_model]; ones where there is none.

    It is found by trying: a row of +1 and -1 has mean 0 and length sqrt(d_model), so both kinds of norm
    return it times their gain, however the gain is stored.
    """
    norm = _final_norm(host)
    if norm is None:
        return torch.ones(host.d_model)
    signs = torch.ones(host.d_model)
    signs[1::2] = -1
    row = signs.to(device=host.device, dtype=host.dtype).unsqueeze(0)
    gain: Tensor = ((norm(row) - norm(-row)) / 2).squeeze(0).float().cpu() * signs
    return gain


def _final_norm(host: HostModel) -> nn.Module | None:
    """The last module outside the layers whose one weight is as wide as the stream."""
    found = None
    for name, module in host.model.base_model.named_modules():
        inside_a_layer = any(part.isdigit() for part in name.split("."))
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.shape == (host.d_model,) and not inside_a_layer:
            found = module
    return found
