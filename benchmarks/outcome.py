"""What came of a request to an engine in this process."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from steerd.engine.events import FailedEvent, FinishedEvent, StreamEvent, TokenEvent

TIMEOUT_SECONDS = 1800.0


@dataclass
class Outcome:
    """Takes the events of one request: its generated tokens and when they arrived (time.perf_counter())."""

    token_ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _error: Exception | None = None

    def __call__(self, event: StreamEvent) -> None:
        match event:
            case TokenEvent():
                self.times.append(time.perf_counter())
                self.token_ids.append(event.token_id)
            case FinishedEvent() | FailedEvent():
                self._error = event.error if isinstance(event, FailedEvent) else None
                self._ended.set()

    def wait(self) -> None:
        """Return when the request has ended; raises what it failed with."""
        if not self._ended.wait(TIMEOUT_SECONDS):
            raise TimeoutError("a request did not end")
        if self._error is not None:
            raise self._error
