from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_train.features.feature_notes import (
    FeatureTokens,
    characteristic_tokens,
    dominating_sources,
    label,
    promoted_tokens,
)
from sae_train.features.feature_observations import FeatureObservations, ObservedRows
from sae_train.features.feature_pages import spread
from steerd.host.host_model import HostModel
from steerd.sae.activation_function import ReLU
from steerd.sae.autoencoder import SparseAutoencoder

VOCAB_SIZE = 259


def observe(acts: list[list[float]], tokens: str, sources: list[int]) -> FeatureObservations:
    """Two sources, two places; one row a token, in batches of two rows."""
    seen = FeatureObservations(len(acts[0]), vocab_size=VOCAB_SIZE, num_sources=2, num_places=2)
    for start in range(0, len(acts), 2):
        part = slice(start, start + 2)
        observed = ObservedRows(
            token_ids=torch.tensor(list(tokens.encode()))[part],
            sources=torch.tensor(sources)[part],
            places=torch.arange(len(acts))[part],
        )
        seen.update(torch.tensor(acts)[part], observed)
    return seen


def test_statistics_are_counts_means_and_maxima() -> None:
    seen = observe([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "abcd", [0, 0, 1, 1])

    statistics = seen.statistics()

    assert statistics.max_activation.tolist() == [4.0, 1.0, 0.0]
    assert statistics.density.tolist() == [0.5, 0.25, 0.0]
    assert statistics.mean_activation.tolist() == [3.0, 1.0, 0.0]
    assert statistics.dead.tolist() == [False, False, True]
    assert seen.top_places[0].tolist() == [2, 1]


def test_mass_by_token_is_of_squares_and_survives_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_train.features.feature_observations._PENDING_LIMIT", 0)
    seen = observe([[3.0], [1.0], [2.0], [0.0]], "abab", [0, 0, 0, 0])

    mass = seen.token_mass()

    assert mass.token_ids.tolist() == [ord("a"), ord("b")]
    assert mass.mass.tolist() == [13.0, 1.0]


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
    tokenizer = tiny_host.tokenizer

    assert label(tokens_of("ab", [0.7, 0.1]), None, tokenizer, dead=False) == "token 'a'"
    assert label(tokens_of("abAcd", [0.1] * 5), None, tokenizer, dead=False) == "a · b · c · d"
    assert label(tokens_of("ab", [0.2, 0.1]), "novels", tokenizer, dead=False) == "a · b (mostly novels)"
    assert label(tokens_of("\n", [0.9]), None, tokenizer, dead=False) == "token '\\n'"
    assert label(tokens_of("é", [0.3, 0.3]), None, tokenizer, dead=False) == "parts of characters"
    assert label(tokens_of("ab", [0.7, 0.1]), None, tokenizer, dead=True) == "dead"


def test_a_direction_promotes_the_token_whose_row_of_the_head_it_is(tiny_host: HostModel) -> None:
    head = tiny_host.model.get_output_embeddings().weight.detach()
    norm = tiny_host.model.base_model.norm.weight.detach()
    wanted = [5, 80, 200]
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(40, tiny_host.d_model, generator=generator) * head.norm(dim=1).mean()
    W_dec[: len(wanted)] = 4 * head[wanted] / norm
    sae = SparseAutoencoder(torch.randn(32, 40), torch.zeros(40), W_dec, torch.zeros(32), ReLU())

    promoted = promoted_tokens(tiny_host, sae, count=5)

    assert promoted[: len(wanted), 0].tolist() == wanted


def test_a_share_of_the_shards_is_evenly_spaced_and_never_none() -> None:
    paths = [Path(f"train-{number:05d}") for number in range(4)]

    assert spread(paths, 1.0) == paths
    assert spread(paths, 0.5) == [paths[0], paths[2]]
    assert spread(paths[:1], 0.99) == paths[:1]
