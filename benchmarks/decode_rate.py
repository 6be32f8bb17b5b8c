"""Tokens a second, from the arrival times of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When each token of each request arrived; seconds of one clock, `started` when they were asked for."""

    started: float
    tokens: Sequence[Sequence[float]]

    def decode_rate(self) -> float:
        """Tokens a second of all requests together, while every request decodes.

        That is after the last request got its first token and before the first request got its last: a system
        that prefills one request while others decode is not charged for it. Each request's rate is taken
        between its own first and last arrival in that window.
        """
        start = max(times[0] for times in self.tokens)
        end = min(times[-1] for times in self.tokens)
        return sum(_rate([time for time in times if start <= time <= end]) for times in self.tokens)

    def total_rate(self) -> float:
        """Tokens a second from the call to the last token, prefill included."""
        return sum(map(len, self.tokens)) / (max(times[-1] for times in self.tokens) - self.started)


def _rate(times: Sequence[float]) -> float:
    assert len(times) > 1, "too few tokens for requests to decode at the same time"
    return (len(times) - 1) / (times[-1] - times[0])
