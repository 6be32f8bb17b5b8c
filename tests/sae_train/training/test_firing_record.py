from __future__ import annotations

import torch

from sae_train.training.firing_record import FiringRecord


def test_a_feature_is_dead_after_the_window_in_tokens() -> None:
    record = FiringRecord(2, dead_window_tokens=100)

    record.update(torch.tensor([True, False]), 60)
    assert record.dead.tolist() == [False, False]
    record.update(torch.tensor([True, False]), 60)
    assert record.dead.tolist() == [False, True]
    record.update(torch.tensor([False, True]), 60)
    assert record.dead.tolist() == [False, False]
