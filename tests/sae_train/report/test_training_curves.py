from __future__ import annotations

from typing import Any

from sae_train.report.training_curves import MOST_POINTS, Curve, training_curves


def step(number: int, **values: Any) -> dict[str, Any]:  # Any: JSON values
    return {"event": "step", "time": 1.0, "sae": "a", "step": number, "tokens": number * 10, **values}


def by_name(curves: list[Curve]) -> dict[tuple[str, str], Curve]:
    return {(curve.name, curve.kind): curve for curve in curves}


def test_every_number_of_the_steps_is_a_curve_over_tokens() -> None:
    records = [
        {"event": "harvest", "tokens": 7},
        step(1, mse=0.5, seconds=3.0, parts={"auxk": 1.0}),
        step(2, mse=0.25, seconds=4.0, parts={"auxk": float("nan")}),
        {**step(2, mse=99.0), "sae": "another"},
    ]

    curves = by_name(training_curves(records, "a"))

    assert set(curves) == {("mse", "step"), ("auxk", "step")}
    assert curves["mse", "step"] == Curve("mse", "step", [10, 20], [0.5, 0.25])
    assert curves["auxk", "step"].values == [1, None]


def test_steps_logged_again_after_a_restart_count_once() -> None:
    records = [step(1, mse=1.0), step(2, mse=2.0), step(3, mse=3.0), step(2, mse=2.5), step(3, mse=3.5)]

    (curve,) = training_curves(records, "a")

    assert curve.values == [1, 2.5, 3.5]
    assert curve.tokens == [10, 20, 30]


def test_a_number_that_only_some_records_have_keeps_its_places() -> None:
    (curve,) = training_curves([step(1), step(2, mse=0.5), step(3), step(4, mse=0.25)], "a")

    assert (curve.tokens, curve.values) == ([20, 40], [0.5, 0.25])


def test_evaluations_are_curves_where_there_are_several() -> None:
    evaluations = [
        {**step(n), "event": "evaluation", "metrics": {"l0_mean": n, "kl_spliced": n, "tokens": 5}}
        for n in (2, 4)
    ]

    assert training_curves(evaluations[:1], "a") == []
    (curve,) = training_curves(evaluations, "a")
    assert curve == Curve("l0_mean", "evaluation", [20, 40], [2, 4])


def test_long_curves_are_thinned_evenly_with_both_ends() -> None:
    (curve,) = training_curves([step(n, mse=float(n)) for n in range(10_000)], "a")

    assert len(curve.values) == MOST_POINTS
    assert (curve.values[0], curve.values[-1]) == (0, 9999)
    gaps = [b - a for a, b in zip(curve.tokens[:-1], curve.tokens[1:], strict=True)]
    assert max(gaps) - min(gaps) <= 10
