"""A study run to its end, as the engine does slice by slice."""

from __future__ import annotations

from typing import TypeVar

import torch

from steerd.engine.study import Progress, Study

R = TypeVar("R")


def run_study(study: Study[R], slices: int | None = None) -> tuple[R, list[Progress]]:
    """Its result after so many slices, all by default, and the progress that it told."""
    told: list[Progress] = []
    with torch.inference_mode():
        for progress in study.run():
            told.append(progress)
            if len(told) == slices:
                break
        return study.result(), told
