"""How good an SAE is on held-out tokens: reconstruction, sparsity, what the host loses with it in place.

Rows that training left out (a sequence's first token, attention sinks) are left out here too, and in the
cross-entropies they pass unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sae_train.activations.held_out import HeldOutRows
from sae_train.activations.host_activations import length_batches, pad_batch
from sae_train.corpus.token_blocks import TokenBlock
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder

_DENSE = 0.1  # a feature active on more than this share of tokens


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """How well and how sparsely held-out activations are rebuilt."""

    tokens: int
    special_tokens: int
    l0_mean: float
    l0_median: float
    l0_p95: float
    l0_special_tokens: float
    variance_explained: float
    """1 - sum ||x - x_hat||^2 / sum ||x - mean x||^2, both over all held-out tokens."""
    mse: float
    """Mean over tokens and dimensions, in the host's units."""
    mse_special_tokens: float
    mse_other_tokens: float
    cosine: float
    relative_norm: float
    """Mean of ||x_hat|| / ||x||."""
    features_inactive: int
    """Features that no held-out token activated (with few tokens, rare features are among them)."""
    features_dense: int
    """Features active on more than 10 % of the tokens."""
    density_median: float


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Next-token loss in nats a token: the plain host, the SAE in place, zeros in place."""

    tokens: int
    clean: float
    spliced: float
    zero_ablated: float

    @property
    def recovered(self) -> float:
        """Share of what zero-ablation loses that the SAE keeps."""
        return (self.zero_ablated - self.spliced) / (self.zero_ablated - self.clean)


def reconstruction(sae: SparseAutoencoder, batches: Iterable[HeldOutRows]) -> Reconstruction:
    """Measure the SAE over held-out rows; independent of how they are cut into batches."""
    errors, l0s, cosines, norms, special = [], [], [], [], []
    total = torch.zeros(sae.d_model, dtype=torch.float64)
    squares = 0.0
    active = torch.zeros(sae.d_sae, dtype=torch.float64)
    for batch in batches:
        x = batch.resid
        feature_acts = sae.encode(x)
        x_hat = sae.decode(feature_acts)
        errors.append((x - x_hat).double().square().sum(dim=1))
        l0s.append((feature_acts > 0).sum(dim=1))
        cosines.append(functional.cosine_similarity(x, x_hat, dim=1))
        norms.append(x_hat.norm(dim=1) / x.norm(dim=1))
        special.append(batch.special)
        active += (feature_acts > 0).sum(dim=0)
        total += x.double().sum(dim=0)
        squares += float(x.double().square().sum())
    error, l0, is_special = torch.cat(errors), torch.cat(l0s).double(), torch.cat(special)
    rows = len(error)
    variance = squares - float(total.square().sum()) / rows  # sum of squared distances to the mean
    density = active / rows
    return Reconstruction(
        tokens=rows,
        special_tokens=int(is_special.sum()),
        l0_mean=float(l0.mean()),
        l0_median=float(l0.median()),
        l0_p95=float(l0.quantile(0.95)),
        l0_special_tokens=_mean(l0[is_special]),
        variance_explained=1 - float(error.sum()) / variance,
        mse=_mean(error) / sae.d_model,
        mse_special_tokens=_mean(error[is_special]) / sae.d_model,
        mse_other_tokens=_mean(error[~is_special]) / sae.d_model,
        cosine=_mean(torch.cat(cosines)),
        relative_norm=_mean(torch.cat(norms)),
        features_inactive=int((active == 0).sum()),
        features_dense=int((density > _DENSE).sum()),
        density_median=float(density.median()),
    )


def cross_entropy(
    host: HostModel,
    hook_point: HookPoint,
    sae: SparseAutoencoder,
    blocks: list[TokenBlock],
    *,
    outlier_limit: float,
    batch_tokens: int,
    on_tokens: Callable[[int], None],
) -> CrossEntropy:
    """Run the blocks through the host three times; rows longer than `outlier_limit` pass unchanged."""
    sums = torch.zeros(3, dtype=torch.float64)
    tokens = 0
    for batch in length_batches(blocks, batch_tokens):
        chosen = [blocks[index] for index in batch]
        input_ids, mask = pad_batch(chosen, device=host.device)
        keep = _keep_rows(chosen, mask.shape[1]).to(host.device)
        edits = (None, _spliced(sae, keep, outlier_limit), _zeroed(keep, outlier_limit))
        sums += torch.stack([_loss(host, hook_point, input_ids, mask, edit) for edit in edits])
        predicted = int(mask[:, 1:].sum())
        tokens += predicted
        on_tokens(predicted)
    clean, spliced, zero_ablated = (sums / tokens).tolist()
    return CrossEntropy(tokens=tokens, clean=clean, spliced=spliced, zero_ablated=zero_ablated)


def _loss(
    host: HostModel,
    hook_point: HookPoint,
    input_ids: Tensor,
    mask: Tensor,
    edit: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """The summed next-token loss of a padded batch."""
    handle = host.attach(hook_point, edit) if edit is not None else None
    try:
        with torch.no_grad():
            logits = host.model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
    finally:
        if handle is not None:
            handle.remove()
    targets = input_ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum"
    ).double()


def _spliced(sae: SparseAutoencoder, keep: Tensor, outlier_limit: float) -> Callable[[Tensor], Tensor]:
    def edit(resid: Tensor) -> Tensor:
        x_hat = sae.decode(sae.encode(resid))
        return torch.where(_replaced(resid, keep, outlier_limit), x_hat.to(resid.dtype), resid)

    return edit


def _zeroed(keep: Tensor, outlier_limit: float) -> Callable[[Tensor], Tensor]:
    def edit(resid: Tensor) -> Tensor:
        return resid.masked_fill(_replaced(resid, keep, outlier_limit), 0.0)

    return edit


def _replaced(resid: Tensor, keep: Tensor, outlier_limit: float) -> Tensor:
    norms: Tensor = resid.float().norm(dim=1)
    return (keep & (norms <= outlier_limit)).unsqueeze(1)  # [rows, 1]


def _keep_rows(blocks: list[TokenBlock], width: int) -> Tensor:
    """The keep masks of a padded batch as rows, [batch * width] bool."""
    rows = [block.keep + [False] * (width - len(block.keep)) for block in blocks]
    return torch.tensor(rows, dtype=torch.bool).flatten()


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0
