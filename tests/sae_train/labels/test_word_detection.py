"""Labels tested by their words, against a plain count over the windows."""

from __future__ import annotations

import numpy as np
import pytest

from sae_train.features.observed_rows import RowSource
from sae_train.labels.held_out_windows import HeldOutWindows, held_out_source, held_out_windows
from sae_train.labels.word_detection import LEAST_WINDOWS, word_detection
from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts
from tests.sae_train.features.small_cache import HOOK_POINT, SCALE, planted_sae, small_cache

LABELS = ["token 'a'", "b · C · d (mostly novels)", "e · zz", "q"] * 8 + ["dead"]


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> HeldOutWindows:
    cache = small_cache(tmp_path_factory.mktemp("cache"), rows=4000, split="held_out")
    return held_out_windows(planted_sae(), held_out_source(cache, HOOK_POINT, SCALE, tokens=10**6))


def plainly(windows: HeldOutWindows, feature: int, words: str, at_least: float = 0.0) -> float:
    found = windows.active(feature)
    active = set(found.windows.tolist())
    texts = [bytes(ids).decode() for ids in windows.token_ids.tolist()]
    told = {i for i, text in enumerate(texts) if any(word in text for word in words)}
    others = set(range(len(texts))) - active
    active = set(found.windows[found.peaks >= at_least].tolist())
    return (len(told & active) / len(active) + len(others - told) / len(others)) / 2


def test_a_score_is_the_balanced_accuracy_of_the_words(windows: HeldOutWindows, tiny_host: HostModel) -> None:
    highest = [float(windows.active(feature).peaks.max(initial=0.0)) * 1.1 for feature in range(33)]

    scores = word_detection(windows, LABELS, highest, TokenTexts(tiny_host.tokenizer))

    tested = 0
    for feature, (score, words) in enumerate(zip(scores, ["a", "bcd", "e", "q"] * 8 + [""], strict=True)):
        active = len(windows.active(feature).windows)
        if min(active, len(windows) - active) < LEAST_WINDOWS:
            assert score is None
            continue
        tested += 1
        assert score is not None
        assert score.value == pytest.approx(plainly(windows, feature, words), abs=6e-4)
        strong = plainly(windows, feature, words, highest[feature] / 2)
        assert score.strong == pytest.approx(strong, abs=6e-4)
        assert score.contexts == active
        assert score.method == "tokens"
    assert tested >= 8


def nothing() -> RowSource:
    return RowSource((), HOOK_POINT, SCALE)


def test_a_label_that_is_the_truth_scores_1(tiny_host: HostModel) -> None:
    ids = np.full((40, 32), ord("x"), dtype=np.int32)
    ids[::2, 5] = ord("R")
    entry = np.dtype([("feature", "i4"), ("window", "i4"), ("peak", "f4")])
    entries = np.array([(0, window, 1.0) for window in range(0, 40, 2)], dtype=entry)
    windows = HeldOutWindows(
        source=nothing(),
        places=np.arange(40),
        token_ids=ids,
        sequences=np.arange(40),
        entries=entries,
        bounds=np.array([0, 20, 20]),
    )

    scores = word_detection(windows, ["token 'r'", "token 'r'"], [3.0, 1.0], TokenTexts(tiny_host.tokenizer))

    assert scores[0] is not None
    assert scores[0].value == 1.0
    assert scores[0].contexts == 20
    assert scores[0].strong is None
    assert scores[1] is None
