"""The search of known_truth chooses as its rule says and comes to the aimed L0, on a side of formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from benchmarks.known_truth_search import (
    DECIDED_L0_NEARNESS,
    L0_NEARNESS,
    RATES,
    Outcome,
    Space,
    Trial,
    best_outcome,
    coefficient_for,
    search,
)

AIM = 8.0


def outcome(*, mcc: float, f1: float, l0: float) -> Outcome:
    trial = Trial(architecture="gated", learning_rate=1e-2, settings={})
    return Outcome(trial=trial, seed=0, scores={"mcc": mcc, "f1": f1, "l0": l0})


def test_the_largest_sum_of_mcc_and_f1_wins_among_those_near_the_aim() -> None:
    far = outcome(mcc=0.9, f1=0.9, l0=AIM * (1 + 1.1 * L0_NEARNESS))
    low = outcome(mcc=0.8, f1=0.3, l0=AIM)
    best = outcome(mcc=0.6, f1=0.6, l0=AIM * (1 - 0.9 * L0_NEARNESS))

    assert best_outcome([far, low, best], AIM, L0_NEARNESS) is best
    assert best_outcome([far, low, best], AIM, DECIDED_L0_NEARNESS) is low


def test_the_nearest_l0_wins_where_none_is_near_the_aim() -> None:
    nearest, better = outcome(mcc=0.5, f1=0.1, l0=9.0), outcome(mcc=0.9, f1=0.9, l0=10.0)

    assert best_outcome([better, nearest], AIM, L0_NEARNESS) is nearest


@pytest.mark.parametrize("power", [-0.8, 1.3], ids=["falling", "rising"])
def test_a_coefficient_is_found_where_l0_is_a_power_of_it(power: float) -> None:
    def l0(coefficient: float) -> float:
        return 20 * math.pow(coefficient, power)

    found = coefficient_for(
        AIM, [(coefficient, l0(coefficient)) for coefficient in (0.4, 1.0, 3.0)], first=(0.4, 3)
    )

    assert l0(found) == pytest.approx(AIM, rel=0.01)


def test_a_coefficient_is_drawn_between_the_nearest_on_both_sides_and_stays_near_the_first_values() -> None:
    bent = [(1.0, 100.0), (2.0, 10.0), (4.0, 5.0)]  # from 2 to 4 inversely proportional

    assert coefficient_for(AIM, bent, first=(1.0, 4.0)) == pytest.approx(2.5, rel=0.01)
    rough = [(1.0, 8.9), (1.1, 7.6), (1.14, 7.6), (4.0, 2.8)]  # the two nearest say nothing
    assert 1.0 < coefficient_for(AIM, rough, first=(1.0, 4.0)) < 1.1
    above = [(8.0, 12.0), (9.0, 12.1), (12.0, 18.0)]
    assert coefficient_for(AIM, above, first=(8.0, 12.0)) == pytest.approx(5.33, rel=0.01)
    assert coefficient_for(AIM, [(1.0, 300.0), (2.0, 299.0)], first=(1.0, 2.0)) == 8.0
    assert coefficient_for(AIM, [(1.0, 300.0), (8.0, 299.0)], first=(1.0, 2.0)) == 8.0
    assert coefficient_for(AIM, [(1.0, 300.0), (2.0, 300.0)], first=(1.0, 2.0)) in (1.0, 2.0)
    assert coefficient_for(AIM, [(1.0, 0.0), (2.0, 0.0)], first=(1.0, 2.0)) in (1.0, 2.0)


def test_a_coefficient_that_was_tried_once_is_led_along_the_line_of_what_is_alike() -> None:
    alike = [(1.0, 10.0), (2.0, 5.0), (9.0, 0.1)]  # inversely proportional near the aim

    assert coefficient_for(AIM, [(3.0, 4.0)], first=(1.0, 9.0), alike=alike) == pytest.approx(1.5)
    assert coefficient_for(AIM, [(3.0, 4.0)], first=(1.0, 9.0), alike=[(3.0, 4.0)] * 2) == 3.0


def test_what_cannot_be_brought_to_the_aim_is_not_tried_twice() -> None:
    space = Space(architecture="gated", base={}, coefficients={"l1": (1.0, 2.0)}, variants=[], rates=[1e-2])
    tried: list[Trial] = []

    def far(trials: Sequence[Trial]) -> list[Outcome]:
        tried.extend(trials)
        return [Outcome(trial=trial, seed=0, scores={"mcc": 0, "f1": 0, "l0": 99}) for trial in trials]

    search([space], far, aim=AIM)

    assert len(tried) == len({repr(trial) for trial in tried})


class Formula:
    """A side: L0 falls with the coefficient, faster at high rates; the sum is best at 1.5e-2 with gain 2.

    The gain halves the L0.
    """

    def __init__(self) -> None:
        self.rounds: list[Sequence[Trial]] = []

    def __call__(self, trials: Sequence[Trial]) -> list[Outcome]:
        self.rounds.append(trials)
        return [Outcome(trial=trial, seed=0, scores=self.scores(trial)) for trial in trials]

    def scores(self, trial: Trial) -> dict[str, float]:
        coefficient = trial.settings.get("l1", 1.0)
        gain = trial.settings.get("gain", 1.0)
        bend = 0.05 * math.log(coefficient) ** 2
        l0 = (
            10 / coefficient ** (0.5 + 20 * trial.learning_rate) / gain - bend
            if "l1" in trial.settings
            else AIM
        )
        mcc = 0.5 - 0.1 * abs(math.log10(trial.learning_rate / 1.5e-2))
        return {"mcc": mcc + 0.1 * gain, "f1": 0.0, "l0": l0}


def test_a_search_comes_to_the_aim_at_every_rate_and_varies_the_best() -> None:
    penalised = Space(
        architecture="gated",
        base={},
        coefficients={"l1": (0.5, 9.0)},
        variants=[("gain", 2.0), ("gain", 0.5)],
    )
    plain = Space(architecture="topk", base={"k": 8}, coefficients={}, variants=[("gain", 0.1)])
    side = Formula()

    outcomes = search([penalised, plain], side, aim=AIM)

    found = [one for one in outcomes if one.trial.architecture == "gated"]
    best = best_outcome(found, AIM, penalised.nearness)
    assert best.trial.learning_rate == 1.5e-2
    assert best.trial.settings["gain"] == 2.0
    assert best.scores["l0"] == pytest.approx(AIM, rel=DECIDED_L0_NEARNESS)
    assert [len(trials) for trials in side.rounds[:2]] == [len(RATES) * (2 + 1), len(RATES)]
    assert {trial.learning_rate for trial in side.rounds[1]} == set(penalised.rates)
    assert {trial.settings["gain"] for trial in side.rounds[5]} == {2.0, 0.5}  # both moved the L0
    assert side.rounds[4][-1] == Trial(
        architecture="topk", learning_rate=1.5e-2, settings={"k": 8, "gain": 0.1}
    )
