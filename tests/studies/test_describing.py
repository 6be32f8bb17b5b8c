"""GetFeature's study, against plain formulas."""

from __future__ import annotations

import pytest
import torch

from steerd.host.host_model import HostModel
from steerd.host.output_tokens import output_tokens
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.describing import Describing, OutputTokenFinders
from steerd.studies.feature_page import PageWish
from tests.studies.run_study import run_study
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae


@pytest.fixture(scope="module")
def host() -> HostModel:
    return make_tiny_host()


@pytest.fixture
def saes(host: HostModel) -> LoadedSaes:
    loaded = LoadedSaes(host)
    loaded.add("late", tiny_sae(host, "blocks.2.hook_resid_post", seed=2))
    return loaded


def test_a_page_has_output_tokens_and_neighbours(host: HostModel, saes: LoadedSaes) -> None:
    W_dec = saes.get("late").sae.W_dec
    wish = PageWish(FeatureRef("late", 9), output_tokens=4, neighbours=3)

    page, told = run_study(Describing(OutputTokenFinders(host), saes, wish))

    expected = output_tokens(host, W_dec, count=4)
    assert [each.token_id for each in page.promoted] == expected.promoted[9].tolist()
    assert [each.token_id for each in page.suppressed] == expected.suppressed[9].tolist()
    assert [each.effect for each in page.promoted] == pytest.approx(expected.promoted_effects[9].tolist())
    assert page.suppressed[0].effect < 0
    cosines = torch.nn.functional.cosine_similarity(W_dec, W_dec[9].unsqueeze(0))
    cosines[9] = -2
    best = cosines.topk(3)
    assert [match.feature for match in page.neighbours] == [FeatureRef("late", i) for i in best.indices]
    assert [match.match for match in page.neighbours] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert page.complete
    assert page.labels[0].text == "label of 9"
    assert [(progress.done, progress.total) for progress in told][-1] == (259, 259)


def test_what_was_measured_once_is_not_measured_again(
    host: HostModel, saes: LoadedSaes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerd.host.output_tokens._ROWS_AT_ONCE", 100)
    finders = OutputTokenFinders(host)
    wish = PageWish(FeatureRef("late", 9), output_tokens=4, neighbours=0)

    _, first = run_study(Describing(finders, saes, wish))
    page, again = run_study(Describing(finders, saes, wish))

    assert [progress.done for progress in first] == [100, 200, 259, 259]
    assert len(again) == 1
    assert page.neighbours == ()


def test_a_page_that_was_stopped_says_what_the_file_says(host: HostModel, saes: LoadedSaes) -> None:
    wish = PageWish(FeatureRef("late", 9), output_tokens=4, neighbours=3)

    page, _ = run_study(Describing(OutputTokenFinders(host), saes, wish), slices=1)

    assert not page.complete
    assert page.labels[0].text == "label of 9"
    assert page.promoted == ()


def test_another_sae_under_the_same_name_has_its_own_output_tokens(host: HostModel, saes: LoadedSaes) -> None:
    finders = OutputTokenFinders(host)
    wish = PageWish(FeatureRef("late", 9), output_tokens=4, neighbours=0)
    run_study(Describing(finders, saes, wish))
    reloaded = saes.reloaded("late", tiny_sae(host, "blocks.2.hook_resid_post", seed=3))

    page, _ = run_study(Describing(finders, reloaded, wish))

    expected = output_tokens(host, reloaded.get("late").sae.W_dec, count=4).promoted[9].tolist()
    assert [each.token_id for each in page.promoted] == expected
