from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from steerd.host.host_model import HostModel
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.contrast import Contrasting, Deal
from steerd.studies.contrast_table import Contrast, ContrastWish, Difference, FeatureUse, Strength
from tests.planted_host import FEATURES, LATE, make_planted_host, planted_saes
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

Ids = tuple[tuple[int, ...], ...]
Parts = tuple[HostModel, LoadedSaes]


@pytest.fixture(scope="module")
def planted() -> Parts:
    host = make_planted_host()
    return host, planted_saes(host)


def texts(seed: int, count: int, planted: Sequence[str] = ()) -> Ids:
    """Random letters, each text with one of the planted strings somewhere behind its first character."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        letters = chance.choices("abcdefghijklmnopqrstuvwxyz ", k=chance.randint(8, 30))
        if planted:
            letters.insert(chance.randrange(2, len(letters)), chance.choice(planted))
        made.append(tuple("".join(letters).encode()))
    return tuple(made)


def wish_of(
    a: Ids,
    b: Ids,
    *saes: str,
    top: int = 20,
    seed: int = 0,
    strength: Strength = "peak",
    specials: bool = False,
) -> ContrastWish:
    return ContrastWish(
        a=a,
        b=b,
        saes=saes or ("early", "late"),
        strength=strength,
        false_discovery_rate=0.05,
        top=top,
        seed=seed,
        include_special_tokens=specials,
    )


def contrast(parts: Parts, wish: ContrastWish, *, slices: int | None = None) -> Contrast:
    study = Contrasting(*parts, wish, slice_tokens=128)
    for number, _ in enumerate(study.run(), 1):
        if number == slices:
            break
    return study.result()


def names(contrast: Contrast, more_in: str) -> set[str]:
    by_ref = {ref: name for name, ref in FEATURES.items()}
    confirmed = [f for f in contrast.features if f.more_in == more_in and f.confirmed]
    return {by_ref.get(f.feature, "letter") for f in confirmed}


def test_exactly_the_planted_features_come_out(planted: Parts) -> None:
    """A's texts ask with A and B there, B's mention S; what that writes and causes differs, and no letter."""
    a, b = texts(1, 40, ["ABq?", "@xB?"]), texts(2, 40, ["S"])
    found = contrast(planted, wish_of(a, b))

    assert names(found, "a") == {"A", "B", "Q", "C", "A late", "A moved"}
    assert names(found, "b") == {"S"}
    assert found.confirmed == 7
    assert found.complete
    assert found.features[0].discovery.cliffs_delta == pytest.approx(1.0)
    labels = {feature.feature: feature.label for feature in found.features}
    assert labels[FEATURES["A moved"]] == FeatureLabel("planted A moved")


def test_the_better_of_two_strengths_is_found_where_rates_are_even(planted: Parts) -> None:
    """D reads more with both E and F than with either, and fires in every text."""
    found = contrast(planted, wish_of(texts(3, 30, ["EF?"]), texts(4, 30, ["E?", "F?"]), LATE))
    d = next(f for f in found.features if f.feature == FEATURES["D"])

    assert d.more_in == "a"
    assert d.confirmed
    assert d.discovery.cohens_h == 0.0
    assert d.held_out.a.mean_peak == pytest.approx(1.49, abs=0.02)
    assert d.held_out.b.mean_peak == pytest.approx(1.0, abs=0.02)


def test_sets_that_differ_in_nothing_show_nothing(planted: Parts) -> None:
    for seed in range(5):
        found = contrast(planted, wish_of(texts(seed, 40), texts(100 + seed, 30)))
        assert found.confirmed == 0
        assert found.tested > 10


@pytest.mark.parametrize("specials", [False, True])
def test_every_figure_is_that_of_a_plain_loop(specials: bool) -> None:
    host = make_tiny_host("llama")
    saes = LoadedSaes(host)
    saes.add("one", tiny_sae(host, "blocks.0.hook_resid_post", seed=1, d_sae=24))
    saes.add("other", tiny_sae(host, "blocks.2.hook_resid_post", seed=2, d_sae=40))
    a, b = texts(5, 9, ["\x00", "XY"]), tuple((257, *text, 258) for text in texts(6, 6))
    wish = ContrastWish(a, b, ("one", "other"), "mean", 1.0, 1000, 3, specials)
    found = contrast((host, saes), wish)

    deal = Deal.of(9, 6, 3)
    held_out = {int(number): bool(out) for number, out in zip(deal.order, deal.is_held_out, strict=True)}
    acts = plain_acts((host, saes), (*a, *b), specials)
    assert found.tested == len(found.features) > 10
    for feature in found.features:
        mine = [acts[number][feature.feature.sae][:, feature.feature.index] for number in range(15)]
        for difference, out in ((feature.discovery, False), (feature.held_out, True)):
            in_a = [mine[number] for number in range(9) if held_out[number] == out]
            in_b = [mine[number] for number in range(9, 15) if held_out[number] == out]
            check_difference(difference, in_a, in_b)
    counted = sum(len(acts[number]["one"]) for number in range(9))
    assert (found.a.discovery_texts, found.a.held_out_texts, found.a.tokens) == (5, 4, counted)


def plain_acts(parts: Parts, all_texts: Ids, specials: bool) -> list[dict[str, np.ndarray]]:
    """Activations on the tokens that count, [tokens, d_sae], a text at a time."""
    host, saes = parts
    found = []
    for text in all_texts:
        rows = host.activations(torch.tensor([text]), None, [sae.hook_point for sae in saes])
        counted = [i for i, token in enumerate(text) if specials or (i > 0 and token < 256)]
        found.append({sae.name: sae.sae.encode(rows[sae.hook_point][0])[counted].numpy() for sae in saes})
    return found


def check_difference(found: Difference, a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for use, acts in ((found.a, a), (found.b, b)):
        expected = FeatureUse(
            text_rate=float(np.mean([(text > 0).any() for text in acts])),
            token_rate=float((np.concatenate(acts) > 0).mean()),
            mean_peak=float(np.mean([text.max() for text in acts])),
            mean_activation=float(np.mean([text.mean() for text in acts])),
        )
        for field in ("text_rate", "token_rate", "mean_peak", "mean_activation"):
            assert getattr(use, field) == pytest.approx(getattr(expected, field), rel=1e-4, abs=1e-6), field
    pairs = [np.sign(x.mean() - y.mean()) for x in a for y in b]
    assert found.cliffs_delta == pytest.approx(np.mean(pairs), abs=1e-9)
    h = 2 * np.arcsin(found.a.text_rate**0.5) - 2 * np.arcsin(found.b.text_rate**0.5)
    assert found.cohens_h == pytest.approx(h, abs=1e-9)


def test_a_part_of_the_slices_is_an_answer_about_those_texts(planted: Parts) -> None:
    a, b = texts(7, 60, ["A"]), texts(8, 60)
    found = contrast(planted, wish_of(a, b), slices=8)
    read = found.a.discovery_texts + found.a.held_out_texts

    assert not found.complete
    assert 10 < read < 50
    assert abs(read - found.b.discovery_texts - found.b.held_out_texts) <= 8
    assert names(found, "a") == {"A", "A late"}


def test_before_the_first_slice_there_is_nothing(planted: Parts) -> None:
    found = Contrasting(*planted, wish_of(texts(1, 4), texts(2, 4)), slice_tokens=64).result()

    assert (found.complete, found.tested, found.features) == (False, 0, ())


def test_the_strongest_of_each_direction_are_told(planted: Parts) -> None:
    a, b = texts(1, 40, ["AB?"]), texts(2, 40, ["SE+"])
    whole, brief = (contrast(planted, wish_of(a, b, top=top)) for top in (20, 2))

    assert [f.more_in for f in brief.features] == ["a", "a", "b", "b"]
    assert brief.found == whole.found
    of_a = [f for f in whole.features if f.more_in == "a"]
    assert list(brief.features[:2]) == of_a[:2]
    deltas = [f.discovery.cliffs_delta for f in of_a]
    assert deltas == sorted(deltas, reverse=True)


def test_the_seed_deals_the_halves() -> None:
    deals = [Deal.of(20, 7, seed) for seed in (1, 1, 2)]

    np.testing.assert_array_equal(deals[0].order, deals[1].order)
    assert (deals[0].order != deals[2].order).any()
    for deal in deals:
        assert sorted(deal.order) == list(range(27))
        assert deal.is_held_out[deal.in_a].sum() == 10
        assert deal.is_held_out[~deal.in_a].sum() == 3
        for end in range(6, 27):  # every part is fair
            assert abs(deal.in_a[:end].sum() - end * 20 / 27) <= 1.5
            assert abs(deal.is_held_out[:end].sum() - end / 2) <= 2
