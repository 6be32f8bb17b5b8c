from __future__ import annotations

from sae_train.training.schedules import learning_rate_factor


def test_up_constant_down() -> None:
    factors = [learning_rate_factor(i, num_steps=100, warm_up_share=0.1, decay_share=0.2) for i in range(100)]

    assert factors[0] == 0.1
    assert factors[4] == 0.5
    assert factors[9:80] == [1.0] * 71
    assert factors[90] == 0.5
    assert factors[99] == 0.05
