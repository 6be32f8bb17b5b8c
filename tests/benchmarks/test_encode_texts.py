"""How codes of two sides are compared."""

from __future__ import annotations

import numpy as np

from benchmarks.encode_texts import Codes, agree
from benchmarks.report import Report


def codes(*tokens: dict[int, float]) -> Codes:
    return Codes(
        counts=np.array([len(token) for token in tokens]),
        features=np.array([feature for token in tokens for feature in token]),
        values=np.array([value for token in tokens for value in token.values()]),
    )


def targets(ours: Codes, theirs: Codes) -> dict[str, float]:
    report = Report("encode_texts", out=None)
    agree(report, "sae", ours, theirs)
    return {target.name: target.value for target in report._targets}


def test_codes_that_are_the_same_agree_in_any_order_within_a_token() -> None:
    found = targets(codes({3: 2.0, 9: 4.0}, {}, {3: 1.0}), codes({9: 4.0, 3: 2.0}, {}, {3: 1.0}))

    assert found == {"shared_share.sae": 1.0, "largest_difference.sae": 0.0}


def test_a_feature_on_another_token_is_not_shared_and_values_are_held_against_each_other() -> None:
    found = targets(codes({3: 2.0, 9: 4.0}, {5: 1.0}), codes({3: 2.0, 9: 4.4}, {}, {5: 1.0}))

    assert found["shared_share.sae"] == 2 / 3
    assert found["largest_difference.sae"] == np.float64(4.4 - 4.0) / 4.4
