from __future__ import annotations

import numpy as np

from sae_train.features.feature_notes import FeatureTokens, characteristic_tokens, dominating_sources, label
from sae_train.features.token_texts import TokenTexts
from steerd.host.host_model import HostModel
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
