"""Encode against one plain forward a text and the whole dictionary a row."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from steerd.host.host_model import HostModel
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.encoded_tokens import EncodedTokens, EncodeSummary, EncodeWish
from steerd.studies.encoding import Encoding
from tests.engine.serving import tiny_saes
from tests.tiny_hosts import make_tiny_host

TOLERANCE = 1e-5  # of padded batches against single texts


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def host(request: pytest.FixtureRequest) -> HostModel:
    return make_tiny_host(request.param)


def random_texts(count: int = 12) -> tuple[tuple[int, ...], ...]:
    generator = random.Random()
    return tuple(
        tuple(generator.randrange(259) for _ in range(generator.randint(1, 60))) for _ in range(count)
    )


def plain_activations(host: HostModel, saes: LoadedSaes, sae: str, text: tuple[int, ...]) -> torch.Tensor:
    """[tokens, d_sae]."""
    loaded = saes.get(sae)
    rows = host.activations(torch.tensor([text]), None, [loaded.hook_point])[loaded.hook_point][0]
    return loaded.sae.encode(rows)


def encoded(
    host: HostModel, saes: LoadedSaes, wish: EncodeWish
) -> tuple[dict[int, EncodedTokens], EncodeSummary]:
    study = Encoding(host, saes, wish, slice_tokens=70)
    parts = [part for progress in study.run() for part in progress.part]
    assert len({part.text for part in parts}) == len(parts) == len(wish.texts)
    return {part.text: part for part in parts}, study.result()


def test_full_codes_are_all_that_is_active(host: HostModel) -> None:
    saes, texts = tiny_saes(host), random_texts()
    wish = EncodeWish(texts, watch=(), top_k=0, full_codes=True, saes=("sae-0", "sae-1"))

    found, summary = encoded(host, saes, wish)

    assert summary == EncodeSummary(complete=True, texts=len(texts), tokens=sum(map(len, texts)))
    for number, text in enumerate(texts):
        assert found[number].token_ids == text
        for codes in found[number].codes:
            expected = plain_activations(host, saes, codes.sae, text)
            dense = torch.zeros_like(expected)
            for position, (features, values) in enumerate(codes.by_token()):
                assert list(features) == sorted(features)
                assert (values > 0).all()
                dense[position, features] = torch.from_numpy(values)
            torch.testing.assert_close(dense, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_watched_features_come_first_and_then_the_strongest_others(host: HostModel) -> None:
    saes, texts = tiny_saes(host), random_texts()
    watch = (FeatureRef("sae-0", 9), FeatureRef("sae-1", 4), FeatureRef("sae-0", 2))
    wish = EncodeWish(texts, watch=watch, top_k=5, full_codes=False, saes=("sae-0",))

    found, _ = encoded(host, saes, wish)

    for number, text in enumerate(texts):
        first, second = found[number].codes
        assert (first.sae, second.sae) == ("sae-0", "sae-1")
        expected = plain_activations(host, saes, "sae-0", text)
        for row, (features, values) in zip(expected, first.by_token(), strict=True):
            assert list(features[:2]) == [9, 2]
            np.testing.assert_allclose(values, row[features], rtol=TOLERANCE, atol=TOLERANCE)
            others = sorted((float(row[n]) for n in row.topk(5).indices if n not in (9, 2)), reverse=True)
            np.testing.assert_allclose(
                values[2:], [value for value in others if value > 0], rtol=TOLERANCE, atol=TOLERANCE
            )
        only = plain_activations(host, saes, "sae-1", text)[:, 4]
        assert (second.features == 4).all()
        np.testing.assert_allclose(second.values, only, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_result_before_the_end_says_what_is_done() -> None:
    host = make_tiny_host()
    texts = random_texts(40)
    wish = EncodeWish(texts, watch=(FeatureRef("sae-0", 1),), top_k=0, full_codes=False, saes=())
    study = Encoding(host, tiny_saes(host), wish, slice_tokens=70)
    slices = study.run()
    parts = [part for _, progress in zip(range(3), slices, strict=False) for part in progress.part]

    done = study.result()

    assert not done.complete
    assert (done.texts, done.tokens) == (len(parts), sum(len(part.token_ids) for part in parts))
