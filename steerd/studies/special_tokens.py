"""Which features fire on the special tokens of chats, and how strongly (arXiv 2506.07691, section 6).

The first position of a text is left out: its row is unlike all others whatever its token is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.special_token_table import (
    FiringFeature,
    SpecialToken,
    SpecialTokensWish,
    SpecialTokenTable,
)
from steerd.studies.text_batches import TextBatch
from steerd.studies.text_reading import read_texts


@dataclass(slots=True)
class _Maxima:
    """Over texts: how many there were and, by feature [d_sae], the sum of their maxima, the largest, and in
    how many of them it was above 0."""

    sums: Tensor
    largest: Tensor
    active: Tensor
    texts: int = 0

    def add(self, maxima: Tensor) -> None:
        """Count one text's [d_sae]."""
        self.sums += maxima
        self.largest = torch.maximum(self.largest, maxima)
        self.active += maxima > 0
        self.texts += 1


@dataclass(slots=True)
class _SaeMaxima:
    """What one SAE's features did on each special token, and on ordinary ones."""

    ordinary: _Maxima
    special: dict[int, _Maxima] = field(default_factory=dict)


class SpecialTokens:
    """A study that reads texts, a batch a slice."""

    def __init__(
        self, host: HostModel, saes: LoadedSaes, wish: SpecialTokensWish, *, slice_tokens: int
    ) -> None:
        self._host = host
        self._saes = [sae for sae in saes if sae.name in wish.saes]
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._found = [_SaeMaxima(_none(sae)) for sae in self._saes]
        self._texts = 0

    def run(self) -> Iterator[Progress]:
        """Read every text once."""
        return read_texts(
            self._host,
            self._wish.texts,
            self._read,
            slice_tokens=self._slice_tokens,
            special_token_ids=self._host.special_token_ids,
        )

    def result(self) -> SpecialTokenTable:
        """The strongest features of each token so far."""
        token_ids = sorted({token_id for found in self._found for token_id in found.special})
        return SpecialTokenTable(
            complete=self._texts == len(self._wish.texts),
            texts=self._texts,
            tokens=tuple(self._token(token_id) for token_id in token_ids),
        )

    def _read(self, batch: TextBatch) -> Progress:
        points = list({sae.hook_point for sae in self._saes})
        rows = self._host.activations(batch.input_ids, batch.attention_mask, points)
        for sae, found in zip(self._saes, self._found, strict=True):
            for row in range(len(batch.numbers)):
                self._add(sae, found, rows[sae.hook_point][row].float(), batch, row)
        self._texts += len(batch.numbers)
        return Progress(self._texts, len(self._wish.texts), "texts")

    def _add(self, sae: LoadedSae, found: _SaeMaxima, x: Tensor, batch: TextBatch, row: int) -> None:
        """Count one text of a batch; x is [seq, d_model]."""
        length = batch.lengths[row]
        feature_acts = sae.sae.encode(x[:length]).cpu()  # [tokens, d_sae]
        ids, is_ordinary = batch.input_ids[row, :length], batch.is_ordinary[row, :length]
        if bool(is_ordinary.any()):
            found.ordinary.add(feature_acts[is_ordinary].amax(dim=0))
        specials = ~is_ordinary
        specials[0] = False
        for token_id in sorted(set(ids[specials].tolist())):
            maxima = found.special.setdefault(token_id, _none(sae))
            maxima.add(feature_acts[specials & (ids == token_id)].amax(dim=0))

    def _token(self, token_id: int) -> SpecialToken:
        features: list[FiringFeature] = []
        texts = 0
        for sae, found in zip(self._saes, self._found, strict=True):
            maxima = found.special[token_id]
            texts = maxima.texts
            strongest = maxima.sums.topk(min(self._wish.top, len(maxima.sums)))
            features += [
                _firing(sae, index, maxima, found.ordinary)
                for index, total in zip(strongest.indices.tolist(), strongest.values.tolist(), strict=True)
                if total > 0
            ]
        return SpecialToken(token_id, texts, tuple(features))


def _none(sae: LoadedSae) -> _Maxima:
    d_sae = sae.sae.d_sae
    return _Maxima(torch.zeros(d_sae), torch.zeros(d_sae), torch.zeros(d_sae, dtype=torch.long))


def _firing(sae: LoadedSae, index: int, maxima: _Maxima, ordinary: _Maxima) -> FiringFeature:
    return FiringFeature(
        feature=FeatureRef(sae.name, index),
        label=sae.label(index),
        mean_maximum=float(maxima.sums[index]) / maxima.texts,
        maximum=float(maxima.largest[index]),
        text_share=float(maxima.active[index]) / maxima.texts,
        ordinary_mean_maximum=float(ordinary.sums[index]) / max(ordinary.texts, 1),
    )
