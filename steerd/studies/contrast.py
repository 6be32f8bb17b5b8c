"""ContrastFeatures: which features fire more often or more strongly in one set of texts than in another.

Texts are dealt to two halves. Features that differ are found in one, at a false discovery rate over all of
them, and measured again in the other, which had no part in choosing them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.contrast_table import Contrast, ContrastWish, TextCount
from steerd.studies.found_features import FoundFeatures
from steerd.studies.half_comparison import Half
from steerd.studies.text_activity import Bools, Ints, TextActivity, joined, text_activity
from steerd.studies.text_batches import TextBatch
from steerd.studies.text_reading import read_texts


class Contrasting:
    """A study whose result is a Contrast of the texts read so far."""

    def __init__(self, host: HostModel, saes: LoadedSaes, wish: ContrastWish, *, slice_tokens: int) -> None:
        self._host = host
        self._wish = wish
        self._slice_tokens = slice_tokens
        self._saes = [sae for sae in saes if sae.name in wish.saes]
        self._ends = np.cumsum([sae.sae.d_sae for sae in self._saes])  # of the SAEs' numbers of features
        self._deal = Deal.of(len(wish.a), len(wish.b), wish.seed)
        self._tokens = np.zeros(len(self._deal.order), dtype=np.int64)  # that count, of the texts read
        self._activity: list[TextActivity] = []
        self._texts_read = 0

    def run(self) -> Iterator[Progress]:
        """A batch of texts a slice; sets and halves come along evenly."""
        both = (*self._wish.a, *self._wish.b)
        texts = [both[number] for number in self._deal.order]
        special = () if self._wish.include_special_tokens else self._host.special_token_ids
        return read_texts(
            self._host, texts, self._read, slice_tokens=self._slice_tokens, special_token_ids=special
        )

    def result(self) -> Contrast:
        """What differs in the texts so far."""
        discovery, held_out = self._half(is_held_out=False), self._half(is_held_out=True)
        a, b = (
            TextCount(discovery.texts[i], held_out.texts[i], discovery.tokens[i] + held_out.tokens[i])
            for i in (0, 1)
        )
        complete = bool(self._tokens.all())
        if 0 in (*discovery.texts, *held_out.texts):
            return Contrast(complete, a, b, tested=0, found=0, confirmed=0, features=())
        wish = self._wish
        found = FoundFeatures.find(
            discovery, held_out, int(self._ends[-1]), strength=wish.strength, rate=wish.false_discovery_rate
        )
        places = [*found.strongest(1, wish.top), *found.strongest(-1, wish.top)]
        return Contrast(
            complete=complete,
            a=a,
            b=b,
            tested=found.tested,
            found=len(found.features),
            confirmed=int(found.is_confirmed.sum()),
            features=tuple(found.at(place, *self._name(int(found.features[place]))) for place in places),
        )

    def _read(self, batch: TextBatch) -> Progress:
        points = list({sae.hook_point for sae in self._saes})
        rows = self._host.activations(batch.input_ids, batch.attention_mask, points)
        counts = batch.is_token if self._wish.include_special_tokens else batch.is_ordinary
        for row, place in enumerate(batch.numbers):
            chosen = counts[row].to(self._host.device)
            self._tokens[place] = int(chosen.sum())
            for sae, end in zip(self._saes, self._ends.tolist(), strict=True):
                x = rows[sae.hook_point][row, chosen]
                self._activity.append(text_activity(place, x, sae.sae, end - sae.sae.d_sae))
        self._texts_read += len(batch.numbers)
        return Progress(self._texts_read, len(self._tokens), "texts")

    def _half(self, *, is_held_out: bool) -> Half:
        """Of the texts read so far."""
        in_half, in_a = self._deal.is_held_out == is_held_out, self._deal.in_a
        whole = joined(self._activity)
        activity = whole.where(in_half[whole.text])
        sets = [in_half & (self._tokens > 0) & in_set for in_set in (in_a, ~in_a)]
        return Half(
            activity=activity,
            in_a=in_a[activity.text],
            texts=(int(sets[0].sum()), int(sets[1].sum())),
            tokens=(int(self._tokens[sets[0]].sum()), int(self._tokens[sets[1]].sum())),
        )

    def _name(self, number: int) -> tuple[FeatureRef, FeatureLabel | None]:
        """A feature and its label, by its number among those of all SAEs."""
        place = int(np.searchsorted(self._ends, number, side="right"))
        sae: LoadedSae = self._saes[place]
        index = number - int(self._ends[place]) + sae.sae.d_sae
        return FeatureRef(sae.name, index), sae.label(index)


@dataclass(frozen=True, slots=True, eq=False)
class Deal:
    """Texts in the order they are read, A's numbered before B's, each array [texts].

    Any first part of the order has about the same share of both sets and of both halves.
    """

    order: Ints
    in_a: Bools
    is_held_out: Bools

    @classmethod
    def of(cls, num_a: int, num_b: int, seed: int) -> Deal:
        """Deal by chance, the larger part of an odd number to the half where features are found."""
        generator = np.random.default_rng(seed)
        numbers = [generator.permutation(num_a), num_a + generator.permutation(num_b)]
        turns = np.concatenate([np.arange(num_a), np.arange(num_b)])
        places = (turns + 0.5) / np.repeat([num_a, num_b], [num_a, num_b])
        order = np.argsort(places, kind="stable")
        return cls(np.concatenate(numbers)[order], order < num_a, turns[order] % 2 == 1)
