"""Encode: what features do on each token of given texts, all SAEs in one forward a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.encoded_tokens import EncodedTokens, EncodeSummary, EncodeWish, SaeCodes
from steerd.studies.text_batches import TextBatch
from steerd.studies.text_reading import read_texts

_VALUES_AT_ONCE = 1 << 23  # activations of a whole dictionary, 32 MiB


class Encoding:
    """A study whose parts are the EncodedTokens of whole texts, and its result an EncodeSummary."""

    def __init__(self, host: HostModel, saes: LoadedSaes, wish: EncodeWish, *, slice_tokens: int) -> None:
        self._host = host
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._watched: dict[str, list[int]] = {}
        for ref in wish.watch:
            self._watched.setdefault(ref.sae, []).append(ref.index)
        self._saes = [sae for sae in saes if sae.name in wish.saes or sae.name in self._watched]
        self._texts = self._tokens = 0

    def run(self) -> Iterator[Progress]:
        """A batch of texts a slice."""
        return read_texts(self._host, self._wish.texts, self._read, slice_tokens=self._slice_tokens)

    def result(self) -> EncodeSummary:
        """What was done."""
        return EncodeSummary(self._texts == len(self._wish.texts), self._texts, self._tokens)

    def _read(self, batch: TextBatch) -> Progress:
        part = tuple(self._encoded(batch))
        self._texts += len(batch.numbers)
        self._tokens += sum(batch.lengths)
        return Progress(self._tokens, sum(map(len, self._wish.texts)), "tokens", part)

    def _encoded(self, batch: TextBatch) -> Iterator[EncodedTokens]:
        points = list({sae.hook_point for sae in self._saes})
        found = self._host.activations(batch.input_ids, batch.attention_mask, points)
        is_token = batch.is_token.to(self._host.device)
        rows = {point: found[point][is_token].float() for point in points}  # [tokens, d_model]
        codes = [self._codes(sae, rows[sae.hook_point]) for sae in self._saes]
        first = 0
        for number, length in zip(batch.numbers, batch.lengths, strict=True):
            here = tuple(code.part(first, first + length) for code in codes)
            yield EncodedTokens(number, 0, self._wish.texts[number], here)
            first += length

    def _codes(self, loaded: LoadedSae, x: Tensor) -> SaeCodes:
        """The wanted activations of rows x [tokens, d_model]."""
        watched = self._watched.get(loaded.name, [])
        top_k = min(self._wish.top_k, loaded.sae.d_sae) if loaded.name in self._wish.saes else 0
        at_once = max(_VALUES_AT_ONCE // loaded.sae.d_sae, 1)
        pieces = [x[first : first + at_once] for first in range(0, len(x), at_once)]
        if self._wish.full_codes:
            parts = [_all_active(loaded.sae, rows) for rows in pieces]
        else:
            parts = [_strongest(loaded.sae, rows, watched, top_k) for rows in pieces]
        counts, features, values = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        return SaeCodes(loaded.name, counts, features, values)


def _all_active(sae: SparseAutoencoder, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Counts [rows], features and values [entries] of all that is active on rows x [rows, d_model]."""
    feature_acts = sae.encode(x)  # [rows, d_sae]
    found = feature_acts.nonzero()
    counts = torch.bincount(found[:, 0], minlength=len(x))
    return counts, found[:, 1], feature_acts[found[:, 0], found[:, 1]]


def _strongest(
    sae: SparseAutoencoder, x: Tensor, watched: Sequence[int], top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_all_active`, of the watched features, then of the active ones among the other top_k."""
    index = torch.tensor(watched, dtype=torch.long, device=x.device)
    if top_k:
        feature_acts = sae.encode(x)  # [rows, d_sae]
        top_values, top_features = feature_acts.topk(top_k, dim=-1)
        kept = (top_values > 0) & ~torch.isin(top_features, index)
        values = torch.cat([feature_acts[:, index], top_values], dim=1)  # [rows, watched + top_k]
        features = torch.cat([index.expand(len(x), -1), top_features], dim=1)
        kept = torch.cat([torch.ones_like(index, dtype=torch.bool).expand(len(x), -1), kept], dim=1)
    else:
        values, features = sae.feature_acts(x, watched), index.expand(len(x), -1)
        kept = torch.ones_like(features, dtype=torch.bool)
    return kept.sum(dim=1), features[kept], values[kept]
