"""What changes over a run as a function of the step."""

from __future__ import annotations


def learning_rate_factor(step: int, *, num_steps: int, warm_up_share: float, decay_share: float) -> float:
    """Return the factor on the learning rate: linearly up, constant, linearly down to zero at the end."""
    warm_up = max(1.0, warm_up_share * num_steps)
    decay = max(1.0, decay_share * num_steps)
    return max(0.0, min(1.0, (step + 1) / warm_up, (num_steps - step) / decay))
