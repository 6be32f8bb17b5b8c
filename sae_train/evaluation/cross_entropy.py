"""What the host loses when an SAE stands in its stream: cross-entropy and KL, next to two ablations.

Rows that training left out (a sequence's first token, attention sinks) pass unchanged in every variant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sae_train.activations.host_activations import length_batches, pad_batch
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.evaluation.reconstruction import rows_at_once
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder

_LOGIT_ROWS = 128  # positions whose probabilities over the whole vocabulary are worked out at once

Edit = Callable[[Tensor], Tensor]
"""A replacement for [rows, d_model] at the hook point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splice:
    """Where an SAE is put into which host, for which text."""

    host: HostModel
    hook_point: HookPoint
    blocks: Sequence[TokenBlock]
    outlier_limit: float
    """Rows with a larger norm pass unchanged."""
    batch_tokens: int
    """Padded tokens the host sees at once; two float32 logits for each are held at a time."""
    on_tokens: Callable[[int], None] = lambda _: None
    """Hears how many further tokens are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy:
    """Mean next-token loss and mean KL(clean || variant) of the next-token distribution, in nats a token."""

    tokens: int
    """Predicted tokens: every one but the first of each block."""
    clean: float
    spliced: float
    zero_ablated: float
    """Zeros in place of the rows."""
    mean_ablated: float
    """The mean of the held-out rows in place of the rows."""
    positions: int
    """Positions with a next-token distribution: every token, the last of a block included."""
    kl_spliced: float
    kl_zero_ablated: float
    kl_mean_ablated: float

    @property
    def recovered_from_zero(self) -> float:
        """Share of what zero ablation loses that the SAE keeps."""
        return _share_kept(self.clean, self.spliced, self.zero_ablated)

    @property
    def recovered_from_mean(self) -> float:
        """Share of what mean ablation loses that the SAE keeps."""
        return _share_kept(self.clean, self.spliced, self.mean_ablated)


def cross_entropy(sae: SparseAutoencoder, splice: Splice, mean: Tensor) -> CrossEntropy:
    """Run the blocks through the host four times; `mean` [d_model] is that of the held-out rows.

    Independent of how the blocks are batched.
    """
    losses, divergences = torch.zeros(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    tokens = positions = 0
    for indices in length_batches(splice.blocks, splice.batch_tokens):
        batch = _batch([splice.blocks[index] for index in indices], splice.host)
        batch_losses, batch_divergences = _compare(batch, _edits(sae, mean, batch.keep, splice), splice)
        losses += batch_losses
        divergences += batch_divergences
        predicted = int(batch.mask[:, 1:].sum())
        tokens += predicted
        positions += int(batch.mask.sum())
        splice.on_tokens(predicted)
    clean, spliced, zero_ablated, mean_ablated = (losses / tokens).tolist()
    kl_spliced, kl_zero_ablated, kl_mean_ablated = (divergences / positions).tolist()
    return CrossEntropy(
        tokens=tokens,
        clean=clean,
        spliced=spliced,
        zero_ablated=zero_ablated,
        mean_ablated=mean_ablated,
        positions=positions,
        kl_spliced=kl_spliced,
        kl_zero_ablated=kl_zero_ablated,
        kl_mean_ablated=kl_mean_ablated,
    )


class _Batch(NamedTuple):
    input_ids: Tensor  # [batch, seq]
    mask: Tensor  # [batch, seq], 0 for padding
    keep: Tensor  # [batch * seq] bool, rows that are edited unless they are outliers


def _batch(blocks: list[TokenBlock], host: HostModel) -> _Batch:
    input_ids, mask = pad_batch(blocks, device=host.device)
    width = mask.shape[1]
    keep = [block.keep + [False] * (width - len(block.keep)) for block in blocks]
    return _Batch(input_ids, mask, torch.tensor(keep, dtype=torch.bool, device=host.device).flatten())


def _edits(sae: SparseAutoencoder, mean: Tensor, keep: Tensor, splice: Splice) -> list[Edit]:
    """The spliced, the zero-ablated and the mean-ablated variant."""

    def rebuilt(resid: Tensor) -> Tensor:
        parts = torch.split(resid.to(sae.W_enc.device), rows_at_once(sae))
        return torch.cat([sae.decode(sae.encode(part)) for part in parts])

    def edit(variant: Callable[[Tensor], Tensor]) -> Edit:
        def replace(resid: Tensor) -> Tensor:
            inlier = resid.float().norm(dim=1) <= splice.outlier_limit
            return torch.where((keep & inlier).unsqueeze(1), variant(resid).to(resid), resid)

        return replace

    return [edit(rebuilt), edit(torch.zeros_like), edit(lambda resid: mean.to(resid).expand_as(resid))]


def _compare(batch: _Batch, edits: list[Edit], splice: Splice) -> tuple[Tensor, Tensor]:
    """Summed losses of the plain host and all variants, and summed KL of each variant from the plain host."""
    clean = _log_probs(batch, splice, None)
    losses, divergences = [_loss(clean, batch)], []
    for edit in edits:
        edited = _log_probs(batch, splice, edit)
        losses.append(_loss(edited, batch))
        divergences.append(_divergence(clean, edited, batch.mask.flatten()))
    return torch.stack(losses), torch.stack(divergences)


@torch.no_grad()
def _log_probs(batch: _Batch, splice: Splice, edit: Edit | None) -> Tensor:
    """The next token's log-probabilities, [batch * seq, vocab] float32."""
    handle = splice.host.attach(splice.hook_point, edit) if edit is not None else None
    try:
        output = splice.host.model(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False)
    finally:
        if handle is not None:
            handle.remove()
    logits: Tensor = output.logits.flatten(0, 1).float()
    for part in torch.split(logits, _LOGIT_ROWS):
        part -= part.logsumexp(dim=1, keepdim=True)  # in place: logits are large
    return logits


def _loss(log_probs: Tensor, batch: _Batch) -> Tensor:
    """The summed loss of every token but the first of each sequence; padding does not count."""
    targets = batch.input_ids.roll(-1, dims=1).flatten()  # [batch * seq], wrong at each sequence's last
    is_predicted = batch.mask[:, 1:].bool()
    found = log_probs.gather(1, targets.unsqueeze(1)).view(batch.mask.shape)[:, :-1]
    return -found[is_predicted].double().sum().cpu()


def _divergence(clean: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    """Summed KL(clean || edited) over the positions of the mask [rows]."""
    total = torch.zeros((), dtype=torch.float64)
    parts = zip(*(torch.split(rows, _LOGIT_ROWS) for rows in (clean, edited, mask)), strict=True)
    for p, q, counts in parts:
        divergences = (p.exp() * (p - q)).sum(dim=1)  # [rows]
        total += divergences[counts.bool()].double().sum().cpu()
    return total


def _share_kept(clean: float, spliced: float, ablated: float) -> float:
    return (ablated - spliced) / (ablated - clean) if ablated != clean else math.nan
