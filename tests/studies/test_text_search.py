"""SearchByTexts' study: planted features are found, and figures are those of a plain loop."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steerd.host.host_model import HostModel
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.feature_matches import TextMatches, TextSearchWish
from steerd.studies.text_search import TextSearch
from tests.planted_host import EARLY, FEATURES, LATE, make_planted_host, planted_saes
from tests.studies.run_study import run_study
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

Ids = tuple[tuple[int, ...], ...]
NAMES = {ref: name for name, ref in FEATURES.items()}


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
    fires_on: Ids,
    not_on: Ids = (),
    saes: tuple[str, ...] = (EARLY, LATE),
    *,
    limit: int = 20,
    specials: bool = False,
    frames: Ids = (),
) -> TextSearchWish:
    return TextSearchWish(fires_on, not_on, saes, limit, specials, frames)


def search(host: HostModel, saes: LoadedSaes, wish: TextSearchWish, slices: int | None = None) -> TextMatches:
    return run_study(TextSearch(host, saes, wish, slice_tokens=64), slices)[0]


def test_what_fires_on_these_texts_and_not_on_those_is_found() -> None:
    host = make_planted_host()
    saes = planted_saes(host)

    found = search(host, saes, wish_of(texts(1, 20, ["A"]), texts(2, 20, ["B"])))

    assert {NAMES[match.feature] for match in found.features} == {"A", "A late"}
    best = found.features[0]
    assert best.texts is not None
    assert (best.texts.fired_on, best.texts.fired_elsewhere) == (20, 0)
    assert best.match == best.texts.strength - best.texts.background
    assert [match.match for match in found.features] == sorted(
        (match.match for match in found.features), reverse=True
    )


def plainly(host: HostModel, loaded: LoadedSae, wish: TextSearchWish) -> list[tuple[float, int, int]]:
    """Match and texts fired on of either kind, feature by feature, one text at a time."""
    skipped = set() if wish.include_special_tokens else host.special_token_ids
    peaks: list[list[torch.Tensor]] = [[], [], []]
    lengths = []
    for kind, group in enumerate((wish.fires_on, wish.not_on, wish.frames)):
        for text in group:
            x = host.activations(torch.tensor([text]), None, [loaded.hook_point])[loaded.hook_point][0]
            first = 0 if wish.include_special_tokens else 1
            rows = [i for i, token in enumerate(text) if i >= first and token not in skipped]
            peaks[kind].append(loaded.sae.encode(x[rows]).amax(dim=0).double())
            if kind == 0:
                lengths.append(len(rows))
    found = []
    statistics = loaded.statistics
    for feature in range(loaded.sae.d_sae):
        wanted, others, framed = ([float(peak[feature]) for peak in group] for group in peaks)
        usual = 0.0
        if statistics is None:
            highest = max([*wanted, *others, *framed]) or 1e-12
        else:
            highest = max(float(statistics.max_activation[feature]), 1e-12)
            density, mean = float(statistics.density[feature]), float(statistics.mean_activation[feature])
            usual = sum((1 - (1 - density) ** n) * mean / highest for n in lengths) / len(lengths)
        strength, elsewhere = (
            sum(min(1.0, value / highest) for value in values) / max(len(values), 1)
            for values in (wanted, others)
        )
        in_frame = min(1.0, max(framed, default=0.0) / highest)
        fired = (sum(value > 0 for value in values) for values in (wanted, others))
        found.append((strength - max(elsewhere, usual, in_frame), *fired))
    return found


@pytest.mark.parametrize("with_statistics", [True, False])
@pytest.mark.parametrize("others", [4, 0])
@pytest.mark.parametrize("specials", [True, False])
@pytest.mark.parametrize("frames", [2, 0])
def test_figures_are_those_of_a_plain_loop(
    with_statistics: bool, others: int, specials: bool, frames: int
) -> None:
    host = make_tiny_host()
    bundle = tiny_sae(host, "blocks.1.hook_resid_post", seed=5, d_sae=30)
    saes = LoadedSaes(host)
    loaded = saes.add("x", bundle if with_statistics else replace(bundle, statistics=None))
    fires_on = (*texts(1, 5), (257, *b"in", 258))
    framed = tuple(text[:3] for text in texts(3, frames))
    wish = wish_of(fires_on, texts(2, others), ("x",), limit=30, specials=specials, frames=framed)

    found = search(host, saes, wish)

    expected = plainly(host, loaded, wish)
    matching = {FeatureRef("x", i) for i in range(30) if expected[i][0] > 1e-4}
    assert matching
    assert {match.feature for match in found.features if match.match > 1e-4} == matching
    assert [match.match for match in found.features] == sorted(
        (m.match for m in found.features), reverse=True
    )
    for match in found.features:
        assert match.texts is not None
        told = (match.match, match.texts.fired_on, match.texts.fired_elsewhere)
        assert told == pytest.approx(expected[match.feature.index], abs=1e-5)
    assert (found.complete, found.texts) == (True, len(fires_on) + others)


def test_a_search_that_was_stopped_tells_of_both_kinds_of_texts_so_far() -> None:
    host = make_planted_host()
    saes = planted_saes(host)

    found = search(host, saes, wish_of(texts(1, 40, ["A"]), texts(2, 40, ["B"])), slices=4)

    assert not found.complete
    assert 0 < found.texts < 80
    assert NAMES[found.features[0].feature] in {"A", "A late"}
    assert found.features[0].texts is not None
    assert abs(found.features[0].texts.fired_on - found.texts / 2) <= 2
