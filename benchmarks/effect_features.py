"""Which features steering_effect steers, and what each is compared with: a rule, not a choice by hand.

1. Topics: live features with a density between 1e-4 and 1e-2 and at least six different words among their top
   tokens; of these the 200 whose words are nearest to each other as embeddings of the host.
2. Of those the ones that can be steered by, as many features of any SAE cannot: ranked by the probability
   that their words gain as the next token of three beginnings of answers, while the feature is added at its
   recorded maximum. These beginnings are used for nothing else.
3. No two with a word in common. The control of each is the topic of nearest density that shares no word with
   any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.effect_measures import UNSTEERED, Push, UnsteeredReader
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat, encode_prompt
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_note import FeatureNote
from steerd.sae.sae_file import SaeBundle

MIN_DENSITY, MAX_DENSITY = 1e-4, 1e-2
MIN_WORDS = 6
MIN_LETTERS = 3
NUM_TOPICS = 200
PROBE_BATCH = 20
PROBE_PROMPT = "Say something."
PROBE_BEGINNINGS = (
    "Let me tell you about the",
    "I have always been interested in",
    "Yesterday I was thinking about",
)
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

    def encode_answer(self, prompt: str, beginning: str) -> list[int]:
        """The ids of a chat with the beginning of an answer."""
        return encode_chat(self._tokenizer, [ChatMessage("user", prompt)]) + encode_prompt(
            self._tokenizer, beginning
        )

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


def choose_features(
    bundle: SaeBundle, vocabulary: Vocabulary, reader: UnsteeredReader, *, count: int, num_topics: int
) -> list[SteeredFeature]:
    """`count` features and their controls, by the rule above, of the `num_topics` nearest topics."""
    assert bundle.statistics is not None, "the SAE has no features.safetensors"
    assert bundle.notes is not None, "the SAE has no features.jsonl"
    notes, statistics = bundle.notes, bundle.statistics
    topics = [f for f in _in_density_class(statistics) if len(different_words(notes[f])) >= MIN_WORDS]
    topics.sort(key=lambda f: vocabulary.coherence(different_words(notes[f])), reverse=True)
    gains = _probed_gains(topics[:num_topics], bundle, vocabulary, reader)
    ranked = sorted(gains, key=lambda feature: gains[feature], reverse=True)
    chosen = _without_common_words(ranked, notes)[:count]
    assert len(chosen) == count, f"only {len(chosen)} features keep the rule"
    taken = frozenset().union(*(words_of(notes[feature]) for feature in chosen))
    unrelated = [feature for feature in topics if not words_of(notes[feature]) & taken]
    steered = []
    for feature in chosen:
        control = min(unrelated, key=lambda other: _distance(statistics.density, feature, other))
        unrelated.remove(control)
        steered.append(_steered(feature, control, notes, statistics, vocabulary))
    return steered


def _probed_gains(
    topics: Sequence[int], bundle: SaeBundle, vocabulary: Vocabulary, reader: UnsteeredReader
) -> dict[int, float]:
    """By topic, the probability that its words gain, the mean over the beginnings."""
    assert bundle.statistics is not None
    assert bundle.notes is not None
    gains = dict.fromkeys(topics, 0.0)
    for beginning in PROBE_BEGINNINGS:
        ids = vocabulary.encode_answer(PROBE_PROMPT, beginning)
        plain = reader.next_logprobs([ids], [UNSTEERED])[0].exp()
        for start in range(0, len(topics), PROBE_BATCH):
            part = topics[start : start + PROBE_BATCH]
            pushes = [Push(feature, float(bundle.statistics.max_activation[feature])) for feature in part]
            steered = reader.next_logprobs([ids] * len(part), pushes).exp()
            for feature, probs in zip(part, steered, strict=True):
                word_ids = vocabulary.ids_of(words_of(bundle.notes[feature]))
                gains[feature] += float((probs - plain)[word_ids].sum()) / len(PROBE_BEGINNINGS)
    return gains


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
