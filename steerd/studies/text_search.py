"""SearchByTexts: which features fire on some texts and not on others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.feature_matches import FeatureMatch, TextMatch, TextMatches, TextSearchWish
from steerd.studies.known_features import matched
from steerd.studies.text_batches import TextBatch, text_batches

_VALUES_AT_ONCE = 1 << 23  # activations of a whole dictionary, 32 MiB


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
        self.usual = zeros.clone()
        self._largest = zeros.clone()

    def add(self, x: Tensor, *, is_wanted: bool) -> None:
        """Take in a text by its rows that count, [rows, d_model]."""
        sae = self.loaded.sae
        at_once = max(_VALUES_AT_ONCE // sae.d_sae, 1)
        parts = [sae.encode(rows).amax(dim=0) for rows in torch.split(x, at_once)]
        peaks = torch.stack(parts).amax(dim=0).double()
        sums = self.wanted if is_wanted else self.others
        sums.peaks.add_(peaks)
        sums.fired.add_(peaks > 0)
        torch.maximum(self._largest, peaks, out=self._largest)
        statistics = self.loaded.statistics
        if statistics is not None:
            highest = statistics.max_activation.to(peaks.device, torch.float64).clamp(min=1e-12)
            sums.strengths.add_((peaks / highest).clamp(max=1))
            if is_wanted:
                density, mean = (
                    each.to(peaks.device, torch.float64)
                    for each in (statistics.density, statistics.mean_activation)
                )
                self.usual.add_((1 - (1 - density) ** len(x)) * mean / highest)

    def strengths(self) -> tuple[Tensor, Tensor]:
        """Summed strengths in the wanted texts and the others.

        Where no maximum is recorded, that of all texts stands for it.
        """
        if self.loaded.statistics is not None:
            return self.wanted.strengths, self.others.strengths
        highest = self._largest.clamp(min=1e-12)
        return self.wanted.peaks / highest, self.others.peaks / highest


class TextSearch:
    """A study whose result is TextMatches of the texts read so far.

    A feature's strength in a text is its largest activation there as a share of its recorded maximum, at most
    1. Features are ranked by their mean strength in the wanted texts less their background: the larger one of
    their mean strength in the other texts and of their usual strength. That is the chance that a feature is
    active anywhere in a text of that length, by its density, times its mean activation as a share of the
    maximum. It keeps out what fires on any text, where no other texts are given.
    """

    def __init__(self, host: HostModel, saes: LoadedSaes, wish: TextSearchWish, *, slice_tokens: int) -> None:
        self._host = host
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._sums = [SaeSums(saes.get(name)) for name in wish.saes]
        self._read = [0, 0]  # of the wanted texts and the others
        self._order = _evenly(len(wish.fires_on), len(wish.not_on))

    def run(self) -> Iterator[Progress]:
        """A batch of texts a slice; both sets come along evenly."""
        both = (*self._wish.fires_on, *self._wish.not_on)
        texts = [both[number] for number in self._order]
        special = () if self._wish.include_special_tokens else self._host.special_token_ids
        for batch in text_batches(texts, slice_tokens=self._slice_tokens, special_token_ids=special):
            self._add(batch)
            yield Progress(sum(self._read), len(texts), "texts")

    def result(self) -> TextMatches:
        """What fires on the texts so far."""
        found = [match for sums in self._sums for match in self._best(sums)] if self._read[0] else []
        found.sort(key=lambda match: -match.match)
        read = sum(self._read)
        return TextMatches(read == len(self._order), tuple(found[: self._wish.limit]), read)

    def _add(self, batch: TextBatch) -> None:
        points = list({sums.loaded.hook_point for sums in self._sums})
        rows = self._host.activations(batch.input_ids, batch.attention_mask, points)
        counts = batch.is_token if self._wish.include_special_tokens else batch.is_ordinary
        for row, place in enumerate(batch.numbers):
            is_wanted = self._order[place] < len(self._wish.fires_on)
            self._read[not is_wanted] += 1
            chosen = counts[row].to(self._host.device)
            if bool(chosen.any()):
                for sums in self._sums:
                    sums.add(rows[sums.loaded.hook_point][row][chosen].float(), is_wanted=is_wanted)

    def _best(self, sums: SaeSums) -> list[FeatureMatch]:
        wanted, others = self._read
        on_wanted, on_others = sums.strengths()
        strength = on_wanted / wanted
        background = torch.maximum(on_others / max(others, 1), sums.usual / wanted)
        scores = strength - background
        values, order = (part[: self._wish.limit] for part in scores.sort(descending=True, stable=True))
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
            for score, index in zip(values.tolist(), order.tolist(), strict=True)
            if score > 0
        ]


def _evenly(first: int, second: int) -> list[int]:
    """The numbers of two sets, those of the second behind the first's, in an order that deals them evenly."""

    def place(number: int) -> float:
        return (number + 0.5) / first if number < first else (number - first + 0.5) / second

    return sorted(range(first + second), key=place)
