"""What fires on special tokens, against one forward a text and plain loops."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
import torch

from steerd.host.host_model import HostModel
from steerd.studies.special_token_table import SpecialTokensWish
from steerd.studies.special_tokens import SpecialTokens
from tests.engine.serving import tiny_saes

SPECIAL = (256, 257, 258)


def chats(count: int) -> tuple[tuple[int, ...], ...]:
    generator = random.Random()

    def words() -> list[int]:
        return [generator.randrange(65, 91) for _ in range(generator.randint(1, 20))]

    return tuple(
        (257, *words(), 258, 257, *words(), 258) if number % 3 else (257, *words(), 258)
        for number in range(count)
    )


def test_the_means_of_maxima_are_those_of_plain_loops(tiny_host: HostModel) -> None:
    saes, texts = tiny_saes(tiny_host), chats(10)
    study = SpecialTokens(
        tiny_host, saes, SpecialTokensWish(texts, ("sae-0", "sae-1"), top=64), slice_tokens=50
    )
    progress = list(study.run())
    table = study.result()

    maxima: dict[tuple[int, str], list[torch.Tensor]] = defaultdict(list)
    ordinary: dict[str, list[torch.Tensor]] = defaultdict(list)
    for text in texts:
        for sae in saes:
            rows = tiny_host.activations(torch.tensor([text]), None, [sae.hook_point])[sae.hook_point][0]
            acts = sae.sae.encode(rows)
            for token_id in SPECIAL:
                places = [n for n, token in enumerate(text) if token == token_id and n]
                if places:
                    maxima[token_id, sae.name].append(acts[places].max(dim=0).values)
            places = [n for n, token in enumerate(text) if token not in SPECIAL]
            ordinary[sae.name].append(acts[places].max(dim=0).values)
    assert table.complete
    assert table.texts == progress[-1].done == 10
    assert [token.token_id for token in table.tokens] == [257, 258]
    for token in table.tokens:
        assert token.texts == len(maxima[token.token_id, "sae-0"])
        strengths = [f.mean_maximum for f in token.features if f.feature.sae == "sae-1"]
        assert strengths == sorted(strengths, reverse=True)
        assert {f.feature.sae for f in token.features} == {"sae-0", "sae-1"}
        for found in token.features:
            per_text = torch.stack(maxima[token.token_id, found.feature.sae])[:, found.feature.index]
            assert found.mean_maximum == pytest.approx(float(per_text.mean()), rel=1e-4)
            assert found.maximum == pytest.approx(float(per_text.max()), rel=1e-4)
            assert found.text_share == pytest.approx(float((per_text > 0).float().mean()))
            elsewhere = torch.stack(ordinary[found.feature.sae])[:, found.feature.index]
            assert found.ordinary_mean_maximum == pytest.approx(float(elsewhere.mean()), rel=1e-4, abs=1e-6)
            assert found.label is not None


def test_as_many_features_as_wanted_and_a_part_says_so(tiny_host: HostModel) -> None:
    study = SpecialTokens(
        tiny_host, tiny_saes(tiny_host), SpecialTokensWish(chats(40), ("sae-1",), top=2), slice_tokens=50
    )
    next(study.run())

    table = study.result()

    assert not table.complete
    assert 0 < table.texts < 40
    assert all(len(token.features) == 2 for token in table.tokens)
