"""The tokens whose logits a direction raises or lowers, as if no later layer touched it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from steerd.host.host_model import HostModel

_FEATURES_AT_ONCE = 256
_ROWS_AT_ONCE = 8192  # of the head or the dictionary


class OutputTokens(NamedTuple):
    """Tokens with the largest effect on each feature's side, every tensor [features, count].

    An effect is counted in standard deviations of that token's effect over all features.
    """

    promoted: Tensor
    promoted_effects: Tensor
    suppressed: Tensor
    suppressed_effects: Tensor


class OutputTokenFinder:
    """Reads the decoder directions [d_sae, d_model] of one SAE as logits.

    Each direction passes the final norm's gain and the head, and what all features have in common is taken
    off. Effects are then divided by their spread over the features: some rare tokens have so long a row in
    the head that they would come first for hundreds of features.
    """

    @torch.no_grad()
    def __init__(self, host: HostModel, W_dec: Tensor) -> None:
        self._W_dec = W_dec
        self._head = _head(host)  # [vocab, d_model]
        self._mean_row = self._head.mean(dim=0, dtype=torch.float32)
        self._gain = final_norm_gain(host).to(self._head.device)
        self._common = W_dec.float().mean(dim=0).to(self._head.device) * self._gain  # [d_model]
        self._spread: Tensor | None = None  # [vocab]

    @property
    def vocab_size(self) -> int:
        """How many tokens are measured."""
        return len(self._head)

    @property
    def is_measured(self) -> bool:
        """Whether `find` may be called."""
        return self._spread is not None

    @torch.no_grad()
    def measure(self) -> Iterator[int]:
        """Measure each token's spread over the features, some thousand tokens at each `next`.

        Yields how many tokens are done; to be run to its end before the first `find`.
        """
        parts = (
            self._centred(slice(i, i + _ROWS_AT_ONCE)) for i in range(0, len(self._W_dec), _ROWS_AT_ONCE)
        )
        covariance = sum(part.t() @ part for part in parts) / len(self._W_dec)  # [d_model, d_model]
        spreads = []
        done = 0
        for rows in torch.split(self._head, _ROWS_AT_ONCE):
            rows = rows.float() - self._mean_row
            spreads.append(((rows @ covariance) * rows).sum(dim=1).clamp(min=1e-12).sqrt())
            done += len(rows)
            yield done
        self._spread = torch.cat(spreads)

    @torch.no_grad()
    def find(self, features: Sequence[int] | slice, count: int) -> OutputTokens:
        """Return the `count` tokens on either side of these features."""
        assert self._spread is not None, "measure first"
        chosen = self._centred(features)
        parts = torch.split(self._head, _ROWS_AT_ONCE)  # so that there is never a second head in memory
        logits = torch.cat([chosen @ rows.float().t() for rows in parts], dim=1)  # [features, vocab]
        effects = (logits - (chosen @ self._mean_row).unsqueeze(1)) / self._spread
        raised, lowered = effects.topk(count, dim=1), effects.topk(count, dim=1, largest=False)
        found = (raised.indices, raised.values, lowered.indices, lowered.values)
        return OutputTokens(*(part.cpu() for part in found))

    def _centred(self, features: Sequence[int] | slice) -> Tensor:
        """Directions of these features behind the norm, without what all have in common."""
        return self._W_dec[features].float().to(self._head.device) * self._gain - self._common


def output_tokens(host: HostModel, W_dec: Tensor, *, count: int, features: int | None = None) -> OutputTokens:
    """Return the tokens of the first `features` features, of all if None."""
    finder = OutputTokenFinder(host, W_dec)
    for _ in finder.measure():
        pass
    last = len(W_dec) if features is None else min(features, len(W_dec))
    chunks = [
        finder.find(slice(start, min(start + _FEATURES_AT_ONCE, last)), count)
        for start in range(0, last, _FEATURES_AT_ONCE)
    ]
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


def _head(host: HostModel) -> Tensor:
    """The head's weight [vocab, d_model]; where it holds none as such, what it makes of each dimension."""
    head = host.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor):
        return weight.detach()
    at_zero = head(torch.zeros(1, host.d_model))
    parts = torch.split(torch.eye(host.d_model), _FEATURES_AT_ONCE)
    return torch.cat([head(part) - at_zero for part in parts]).t()


def _final_norm(host: HostModel) -> nn.Module | None:
    """The last module outside the layers whose one weight is as wide as the stream."""
    found = None
    for name, module in host.model.base_model.named_modules():
        inside_a_layer = any(part.isdigit() for part in name.split("."))
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.shape == (host.d_model,) and not inside_a_layer:
            found = module
    return found
