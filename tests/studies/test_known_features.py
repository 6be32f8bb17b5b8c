"""What SAE files tell of features."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.sae.feature_note import FeatureExample
from steerd.sae.sae_file import SaeBundle
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.known_features import known_page, matched, words_matched
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

SCORES = (LabelScore("tokens", 0.6, 30), LabelScore("detection", 0.7, 50, "judge"))
WRITTEN = FeatureLabel("kinds of tea", (LabelScore("detection", 0.9, 50, "judge"),), by="model")


@pytest.fixture(scope="module")
def saes() -> list[LoadedSae]:
    """Two SAEs of eight features; the second one's third has everything a note can have."""
    host = make_tiny_host()
    loaded = LoadedSaes(host)
    loaded.add("early", tiny_sae(host, "blocks.0.hook_resid_post", seed=1, d_sae=8))
    late = tiny_sae(host, "blocks.2.hook_resid_post", seed=2, d_sae=8)
    assert late.notes is not None
    full = replace(
        late.notes[3],
        top_tokens=(" tea", " cup"),
        sampled=(FeatureExample((" x",), (0.5,), percentile=40.0),),
        scores=SCORES,
        written=WRITTEN,
    )
    notes = (*late.notes[:3], full, *late.notes[4:])
    loaded.add("late", replace(late, notes=notes))
    bare = tiny_sae(host, "blocks.1.hook_resid_post", seed=3, d_sae=8)
    loaded.add("bare", SaeBundle(bare.sae, bare.metadata))
    return list(loaded)


def test_a_page_holds_all_that_the_file_has(saes: list[LoadedSae]) -> None:
    late = saes[1]
    assert late.notes is not None

    page = known_page(late, 3)

    assert page.feature == FeatureRef("late", 3)
    assert page.hook_point == "blocks.2.hook_resid_post"
    assert page.labels == (WRITTEN, FeatureLabel("label of 3", SCORES))
    assert (page.max_activation, page.density, page.mean_activation, page.dead) == (1.0, 0.25, 0.5, False)
    assert page.top_tokens == (" tea", " cup")
    assert [example.percentile for example in page.contexts] == [None, 40.0]
    assert known_page(late, 1).dead


def test_an_sae_without_notes_and_statistics_has_a_bare_page(saes: list[LoadedSae]) -> None:
    page = known_page(saes[2], 0)

    assert (page.labels, page.contexts) == ((), ())
    assert matched(saes[2], 0, 0.5).label is None
    assert (page.density, page.max_activation, page.mean_activation, page.dead) == (None, None, None, False)
    assert matched(saes[2], 0, 0.5).density is None


def test_words_are_searched_in_all_saes_at_once(saes: list[LoadedSae]) -> None:
    tea = words_matched(saes, ["tea"], limit=5)
    three = words_matched(saes, ["3"], limit=1)
    everything = words_matched(saes, [], limit=100)

    assert [(match.feature, match.match, match.label) for match in tea.features] == [
        (FeatureRef("late", 3), 1.0, WRITTEN)
    ]
    assert [match.feature for match in three.features] == [FeatureRef("late", 3)]
    assert three.found == 2
    assert everything.found == len(everything.features) == 16
