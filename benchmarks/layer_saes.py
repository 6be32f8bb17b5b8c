"""An SAE at every layer of a host, and what can be asked of them at some of the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.many_wishes import operation
from steerd.config import WatchedFeature
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.sae_file import SaeBundle, SaeMetadata, load_sae
from steerd.steering.intervention import FeatureRef, Intervention

_STEERED = 32  # places of an SAE for the features that are steered
_ACTIVE_OF = 32  # features of a random SAE, of which one is active on a row
_ROWS = 256  # on which that is so


def sae_name(layer: int) -> str:
    """What the SAE of a layer is called."""
    return f"layer-{layer}"


def layer_saes(host: HostModel, d_sae: int, starters: Mapping[int, Path]) -> list[SaeBundle]:
    """One SAE for the output of each layer, in order: that of a folder, or a random one."""
    points = [HookPoint(layer, "resid_post") for layer in range(host.num_layers)]
    found = host.activations(ordinary_tokens(host, _ROWS), None, points)
    return [
        _named(load_sae(starters[point.layer]), sae_name(point.layer))
        if point.layer in starters
        else random_sae(host, point, d_sae, found[point].reshape(-1, host.d_model)[1:].float())
        for point in points
    ]


def ordinary_tokens(host: HostModel, count: int) -> Tensor:
    """Random tokens of which none is special, [1, count]."""
    ids = torch.randint(host.vocab_size, (2 * count + 1000,), generator=torch.Generator().manual_seed(0))
    is_special = torch.isin(ids, torch.tensor(sorted(host.special_token_ids)))
    return ids[~is_special][None, :count]


def random_sae(host: HostModel, point: HookPoint, d_sae: int, rows: Tensor) -> SaeBundle:
    """Decoder rows of length 1; on given rows [rows, d_model] a 32nd of the features is active at a time."""
    generator = torch.Generator().manual_seed(point.layer)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, host.d_model, generator=generator), dim=1)
    W_enc = W_dec.T.contiguous()
    pre_acts = (rows.cpu() @ W_enc).flatten()
    threshold = pre_acts.topk(len(pre_acts) // _ACTIVE_OF).values[-1].clamp(min=0.0)
    sae = SparseAutoencoder(
        W_enc=W_enc,
        b_enc=torch.zeros(d_sae),
        W_dec=W_dec,
        b_dec=torch.zeros(host.d_model),
        activation=JumpReLU(threshold.expand(d_sae).clone()),
    )
    name = sae_name(point.layer)
    metadata = SaeMetadata.describe(sae, name=name, model_name=host.name, hook_point=str(point))
    return SaeBundle(sae, metadata)


def spread_layers(num_layers: int, count: int) -> tuple[int, ...]:
    """That many of the layers, evenly spread; 14 of 30 is the one."""
    if count == num_layers:
        return tuple(range(num_layers))
    return tuple((num_layers - 1) * (2 * part + 1) // (2 * count) for part in range(count))


def configurations(
    saes: Sequence[SaeBundle], layers: Sequence[int], count: int
) -> tuple[tuple[Intervention, ...], ...]:
    """Different ways to steer: each edits one feature at every layer, no two of them the same one."""
    return tuple(
        tuple(
            Intervention(
                target=FeatureRef(sae_name(layer), number * saes[layer].sae.d_sae // _STEERED | 1),
                operation=operation(number),
            )
            for layer in layers
        )
        for number in range(count)
    )


def watch_list(saes: Sequence[SaeBundle], layers: Sequence[int], count: int) -> tuple[WatchedFeature, ...]:
    """Features spread over the layers and over their SAEs; none of them is among `configurations`."""
    watched = []
    for number in range(count):
        layer, place = layers[number % len(layers)], number // len(layers)
        per_layer = -(-count // len(layers))
        index = place * saes[layer].sae.d_sae // per_layer & ~1
        watched.append(WatchedFeature(sae=sae_name(layer), index=index, alias=f"feature_{number}"))
    return tuple(watched)


def _named(bundle: SaeBundle, name: str) -> SaeBundle:
    return replace(bundle, metadata=replace(bundle.metadata, name=name))
