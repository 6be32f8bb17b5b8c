from __future__ import annotations

import numpy as np

from sae_train.features.feature_notes import (
    FeatureTokens,
    characteristic_tokens,
    dominating_sources,
    label,
    named_words,
    word,
)
from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts
from tests.sae_train.features.observing import observe


def test_characteristic_tokens_are_frequent_in_the_feature_and_rare_elsewhere() -> None:
    rows = 400
    acts = [[1.0 if i % 20 < 2 else 0.0] for i in range(rows)]
    text = "".join("x" if i % 20 == 0 else " " for i in range(rows))
    seen = observe(acts, text, [0] * rows)

    (tokens,) = characteristic_tokens(seen)

    assert tokens.token_ids.tolist() == [ord("x"), ord(" ")]
    assert tokens.shares.tolist() == [0.5, 0.5]


def test_a_source_dominates_with_half_of_the_activation_far_above_its_part_of_the_data() -> None:
    rows = 400
    sources = [1 if i % 10 == 0 else 0 for i in range(rows)]
    acts = [[float(source), 1.0 - source, 1.0] for source in sources]

    found = dominating_sources(observe(acts, "a" * rows, sources), ["many", "few"])

    assert found == ["few", None, None]


def tokens_of(text: str, shares: list[float]) -> FeatureTokens:
    return FeatureTokens(token_ids=np.array(list(text.encode())), shares=np.array(shares))


def test_labels_name_what_was_seen(tiny_host: HostModel) -> None:
    texts = TokenTexts(tiny_host.tokenizer)

    assert label(tokens_of("ab", [0.7, 0.1]), None, texts, dead=False) == "token 'a'"
    assert label(tokens_of("abAcd", [0.1] * 5), None, texts, dead=False) == "a · b · c · d"
    assert label(tokens_of("ab", [0.2, 0.1]), "novels", texts, dead=False) == "a · b (mostly novels)"
    assert label(tokens_of("\n", [0.9]), None, texts, dead=False) == "token '\\n'"
    assert label(tokens_of("é", [0.3, 0.3]), None, texts, dead=False) == "parts of characters"
    assert label(tokens_of("ab", [0.7, 0.1]), None, texts, dead=True) == "dead"


def test_the_words_of_a_label_are_those_that_it_was_made_of(tiny_host: HostModel) -> None:
    texts = TokenTexts(tiny_host.tokenizer)

    def named(text: str, share: float, source: str | None = None) -> frozenset[str]:
        tokens = tokens_of(text, [share] * len(text.encode()))
        return named_words(label(tokens, source, texts, dead=False))

    assert named("a", 0.9) == {"a"}
    assert named("A()'", 0.2, "novels") == {"a", "(", ")", "'"}
    assert named(") ", 0.9, "docs (old)") == {")"}
    assert named("\n", 0.9) == {"\\n"} == {word("\n")}
    assert named(" ", 0.2) == {"␣"} == {word(" ")}
    assert named("é", 0.3) == {word(texts.one(0xC3))}
    assert named_words("привет · мир (Cyrillic script, mostly xquad)") == {"привет", "мир"}
    assert named_words("token 'Вы' (Cyrillic script)") == {"вы"}
    assert word(" Rain") == "Rain"
