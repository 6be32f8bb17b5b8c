"""Which features steering_effect steers, and what each is compared with: a rule, not a choice by hand.

Everything is read from the SAE's own files and the host's embeddings, before anything is steered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerd.host.host_model import HostModel
from steerd.sae.feature_files import FeatureNote, FeatureStatistics
from steerd.sae.sae_file import SaeBundle

MIN_DENSITY, MAX_DENSITY = 1e-4, 1e-2
MIN_WORDS = 6
MIN_LETTERS = 3
STEM_LETTERS = 4


@dataclass(frozen=True, slots=True)
class SteeredFeature:
    """One feature under test. `word_ids` are the host's tokens that stand for its top words."""

    index: int
    label: str
    words: frozenset[str]
    word_ids: Tensor  # [tokens]
    max_activation: float
    density: float
    control: int
    control_label: str


class Vocabulary:
    """The host's tokens as words: letters only, three at least, without regard to case and spaces."""

    def __init__(self, host: HostModel) -> None:
        self._tokenizer = host.tokenizer
        self.word_of_id = [folded(str(host.tokenizer.decode([i]))) for i in range(host.vocab_size)]
        self._ids_of_word: dict[str, list[int]] = {}
        for token_id, word in enumerate(self.word_of_id):
            self._ids_of_word.setdefault(word, []).append(token_id)
        model: Any = host.model  # Any: the library's method has no annotations
        embeddings: Tensor = model.get_input_embeddings().weight.float()
        self._unit = embeddings / embeddings.norm(dim=1, keepdim=True)  # [vocab, d_model]

    def text(self, token_ids: list[int]) -> str:
        """Ids as text on one line, special tokens left out."""
        return " ".join(str(self._tokenizer.decode(token_ids, skip_special_tokens=True)).split())

    def ids_of(self, words: frozenset[str]) -> Tensor:
        """All tokens that are one of the words."""
        return torch.tensor([i for word in sorted(words) for i in self._ids_of_word.get(word, ())])

    def coherence(self, words: frozenset[str]) -> float:
        """How near the words are to each other: the mean cosine between two of them, as embeddings."""
        of_word = torch.stack([self._unit[self.ids_of(frozenset([word]))].mean(dim=0) for word in words])
        unit = of_word / of_word.norm(dim=1, keepdim=True)
        cosines = unit @ unit.T
        return float((cosines.sum() - len(unit)) / (len(unit) * (len(unit) - 1)))


def folded(token: str) -> str:
    """A token as a word, empty when it is none."""
    word = token.strip().lower()
    return word if word.isalpha() and len(word) >= MIN_LETTERS else ""


def words_of(note: FeatureNote) -> frozenset[str]:
    """The words among the tokens on which a feature is most active."""
    return frozenset(filter(None, map(folded, note.top_tokens)))


def different_words(note: FeatureNote) -> frozenset[str]:
    """One word for each beginning of four letters, the most active first: start and started are one."""
    words: dict[str, str] = {}
    for word in filter(None, map(folded, note.top_tokens)):
        words.setdefault(word[:STEM_LETTERS], word)
    return frozenset(words.values())


def choose_features(bundle: SaeBundle, vocabulary: Vocabulary, count: int) -> list[SteeredFeature]:
    """The `count` features whose different top words are nearest to each other, no two with a word in common.

    Of live features with a density between 1e-4 and 1e-2 and at least six different top words, so that it
    is a topic that they have in common and not a token. A feature's control is the one of nearest density
    among them that shares no word with any chosen feature.
    """
    assert bundle.statistics is not None, "the SAE has no features.safetensors"
    assert bundle.notes is not None, "the SAE has no features.jsonl"
    notes, statistics = bundle.notes, bundle.statistics
    candidates = [f for f in _in_density_class(statistics) if len(different_words(notes[f])) >= MIN_WORDS]
    ranked = sorted(candidates, key=lambda f: vocabulary.coherence(different_words(notes[f])), reverse=True)
    chosen = _without_common_words(ranked, notes)[:count]
    assert len(chosen) == count, f"only {len(chosen)} features keep the rule"
    taken = frozenset().union(*(words_of(notes[feature]) for feature in chosen))
    unrelated = [feature for feature in candidates if not words_of(notes[feature]) & taken]
    steered = []
    for feature in chosen:
        control = min(unrelated, key=lambda other: _distance(statistics.density, feature, other))
        unrelated.remove(control)
        steered.append(_steered(feature, control, notes, statistics, vocabulary))
    return steered


def _in_density_class(statistics: FeatureStatistics) -> list[int]:
    density = statistics.density
    kept = ~statistics.dead & (density >= MIN_DENSITY) & (density <= MAX_DENSITY)
    indices: list[int] = kept.nonzero().flatten().tolist()
    return indices


def _without_common_words(ranked: Sequence[int], notes: Sequence[FeatureNote]) -> list[int]:
    chosen: list[int] = []
    taken: frozenset[str] = frozenset()
    for feature in ranked:
        words = words_of(notes[feature])
        if not words & taken:
            chosen.append(feature)
            taken |= words
    return chosen


def _distance(density: Tensor, one: int, other: int) -> float:
    return abs(float(density[one].log() - density[other].log()))


def _steered(
    feature: int,
    control: int,
    notes: Sequence[FeatureNote],
    statistics: FeatureStatistics,
    vocabulary: Vocabulary,
) -> SteeredFeature:
    words = words_of(notes[feature])
    return SteeredFeature(
        index=feature,
        label=notes[feature].label,
        words=words,
        word_ids=vocabulary.ids_of(words),
        max_activation=float(statistics.max_activation[feature]),
        density=float(statistics.density[feature]),
        control=control,
        control_label=notes[control].label,
    )
