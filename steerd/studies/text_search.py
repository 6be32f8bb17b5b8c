"""SearchByTexts: which features fire on some texts and not on others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.feature_matches import FeatureMatch, Text, TextMatch, TextMatches, TextSearchWish
from steerd.studies.known_features import matched
from steerd.studies.text_batches import TextBatch
from steerd.studies.text_reading import read_texts

Kind = Literal["wanted", "other", "frame"]

_VALUES_AT_ONCE = 1 << 23  # activations of a whole dictionary, 32 MiB
_ROUNDING = 1e-5  # of shares of a maximum: the same text differs by less from one place of a batch to another


class Sums(NamedTuple):
    """Over the texts of one set so far, every tensor [d_sae].

    The features' largest activations in each, these as shares of the recorded maximum, the texts fired on.
    """

    peaks: Tensor
    strengths: Tensor
    fired: Tensor


class SaeSums:
    """What the features of one SAE did in both sets of texts."""

    def __init__(self, loaded: LoadedSae) -> None:
        self.loaded = loaded
        zeros = torch.zeros(loaded.sae.d_sae, dtype=torch.float64, device=loaded.sae.W_enc.device)
        self.wanted, self.others = (Sums(zeros.clone(), zeros.clone(), zeros.clone()) for _ in range(2))
        self._usual = zeros.clone()
        self._framed = zeros.clone()
        self._largest = zeros.clone()
        self._highest = None  # the recorded maxima
        if loaded.statistics is not None:
            self._highest = loaded.statistics.max_activation.to(zeros).clamp(min=1e-12)

    def add(self, x: Tensor, kind: Kind) -> None:
        """Take in a text by its rows that count, [rows, d_model]."""
        sae = self.loaded.sae
        at_once = max(_VALUES_AT_ONCE // sae.d_sae, 1)
        parts = [sae.encode(rows).amax(dim=0) for rows in torch.split(x, at_once)]
        peaks = torch.stack(parts).amax(dim=0).double()
        torch.maximum(self._largest, peaks, out=self._largest)
        if kind == "frame":
            torch.maximum(self._framed, peaks, out=self._framed)
            return
        sums = self.wanted if kind == "wanted" else self.others
        sums.peaks.add_(peaks)
        sums.fired.add_(peaks > 0)
        if self._highest is not None:
            sums.strengths.add_((peaks / self._highest).clamp(max=1))
            if kind == "wanted":
                self._usual.add_(self._usual_strength(len(x)))

    def strength(self, wanted: int) -> Tensor:
        """Mean strength over the wanted texts.

        Where no maximum is recorded, that of all texts stands for it.
        """
        return self._strengths(self.wanted) / wanted

    def background(self, wanted: int, others: int) -> Tensor:
        """What is taken off that."""
        elsewhere = self._strengths(self.others) / max(others, 1)
        framed = (self._framed / self._maximum).clamp(max=1)
        return torch.maximum(torch.maximum(elsewhere, self._usual / wanted), framed)

    @property
    def _maximum(self) -> Tensor:
        return self._largest.clamp(min=1e-12) if self._highest is None else self._highest

    def _strengths(self, sums: Sums) -> Tensor:
        return sums.peaks / self._maximum if self._highest is None else sums.strengths

    def _usual_strength(self, tokens: int) -> Tensor:
        """What is to be expected of any text of so many tokens."""
        assert self.loaded.statistics is not None
        statistics = self.loaded.statistics
        density, mean = (each.to(self._usual) for each in (statistics.density, statistics.mean_activation))
        return (1 - (1 - density) ** tokens) * mean / self._maximum


class TextSearch:
    """A study whose result is TextMatches of the texts read so far.

    A feature's strength in a text is its largest activation there as a share of its recorded maximum, at most
    1. Features are ranked by their mean strength in the wanted texts less their background. That is the
    largest of three: their mean strength in the other texts; their strength in the wanted conversations
    without their contents; and their usual strength, which is the chance that a feature is active anywhere in
    a text of that length, by its density, times its mean activation as a share of the maximum. The last two
    keep out what fires on any text, where no other texts are given.
    """

    def __init__(self, host: HostModel, saes: LoadedSaes, wish: TextSearchWish, *, slice_tokens: int) -> None:
        self._host = host
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._sums = [SaeSums(saes.get(name)) for name in wish.saes]
        groups: dict[Kind, tuple[Text, ...]] = {"wanted": wish.fires_on, "other": wish.not_on}
        dealt = sorted(
            ((number + 0.5) / len(texts), kind, text)
            for kind, texts in groups.items()
            for number, text in enumerate(texts)
        )
        self._texts: list[tuple[Kind, Text]] = [("frame", frame) for frame in wish.frames]
        self._texts += [(kind, text) for _, kind, text in dealt]
        self._read: Counter[Kind] = Counter()

    def run(self) -> Iterator[Progress]:
        """A batch of texts a slice; both sets come along evenly."""
        texts = [text for _, text in self._texts]
        special = () if self._wish.include_special_tokens else self._host.special_token_ids
        return read_texts(
            self._host, texts, self._add, slice_tokens=self._slice_tokens, special_token_ids=special
        )

    def result(self) -> TextMatches:
        """What fires on the texts so far."""
        found = [match for sums in self._sums for match in self._best(sums)] if self._read["wanted"] else []
        found.sort(key=lambda match: -match.match)
        read = self._read["wanted"] + self._read["other"]
        complete = self._read.total() == len(self._texts)
        return TextMatches(complete, tuple(found[: self._wish.limit]), read)

    def _add(self, batch: TextBatch) -> Progress:
        points = list({sums.loaded.hook_point for sums in self._sums})
        rows = self._host.activations(batch.input_ids, batch.attention_mask, points)
        counts = batch.is_token if self._wish.include_special_tokens else batch.is_ordinary
        for row, place in enumerate(batch.numbers):
            kind, _ = self._texts[place]
            self._read[kind] += 1
            chosen = counts[row].to(self._host.device)
            if bool(chosen.any()):
                for sums in self._sums:
                    sums.add(rows[sums.loaded.hook_point][row][chosen].float(), kind)
        return Progress(self._read.total(), len(self._texts), "texts")

    def _best(self, sums: SaeSums) -> list[FeatureMatch]:
        wanted, others = self._read["wanted"], self._read["other"]
        strength, background = sums.strength(wanted), sums.background(wanted, others)
        ranked = (strength - background).sort(descending=True, stable=True)
        values, order = (part[: self._wish.limit].tolist() for part in ranked)
        return [
            matched(
                sums.loaded,
                index,
                score,
                TextMatch(
                    fired_on=int(sums.wanted.fired[index]),
                    fired_elsewhere=int(sums.others.fired[index]),
                    strength=float(strength[index]),
                    background=float(background[index]),
                ),
            )
            for score, index in zip(values, order, strict=True)
            if score > _ROUNDING
        ]
