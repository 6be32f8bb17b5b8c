"""Where other threads meet the engine's: requests in order, cancels, and the wish to drain or stop."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from steerd.engine.events import FinishedEvent, StreamEvent, Timings
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.engine.twins import Twins, baseline_of
from steerd.errors import AlreadyExists, Overloaded, Unavailable
from steerd.steering.loaded_saes import LoadedSaes

Deliver = Callable[[StreamEvent], None]


class Submission:
    """One submitted request: what its client holds, and cancels it by, until it has ended.

    One with a baseline stands for both: they are admitted, and given up, together.
    """

    def __init__(self, request: GenerationRequest, deliver: Deliver, saes: LoadedSaes | None = None) -> None:
        """`saes` are those that the request is for, whenever it runs; None: those served then."""
        self.request = request
        self.saes = saes
        self.deliver = deliver
        self.submitted = time.monotonic()
        self._cancelled: float | None = None
        self.twins: Twins | None = None
        self.baseline: Submission | None = None
        self.steered: Submission | None = None  # of a baseline
        if request.baseline:
            self.twins = Twins(deliver)
            self.deliver = self.twins.tell_steered
            self.baseline = Submission(baseline_of(request), self.twins.tell_baseline, saes)
            self.baseline.twins = self.twins
            self.baseline.steered = self

    def together(self) -> list[Submission]:
        """Itself, and its baseline if it has one."""
        return [self] if self.baseline is None else [self, self.baseline]

    def mark_cancelled(self) -> None:
        """It is to end now."""
        if self._cancelled is None:
            self._cancelled = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long ago it was submitted."""
        return time.monotonic() - self.submitted

    @property
    def since_cancel(self) -> float | None:
        """Seconds since it was cancelled; None when it was not."""
        return None if self._cancelled is None else time.monotonic() - self._cancelled

    def cancelled(self) -> FinishedEvent:
        """How it ends when it is cancelled before it ran."""
        return FinishedEvent(
            reason=FinishReason.CANCELLED,
            prompt_tokens=len(self.request.prompt_ids),
            generated_tokens=0,
            timings=Timings(self.seconds, 0.0, 0.0),
            features=(),
            cancel_seconds=self.since_cancel,
        )


class WaitingLine:
    """A bounded line of requests, and the ids of all that have not ended. May be used from any thread.

    An id is in use from `join` until `end`, also while its request runs. Who cancels or ends says which
    submission is meant, as the id may belong to a later one by then.
    """

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._changed = threading.Condition()  # guards all below
        self._waiting: deque[Submission] = deque()
        self._cancelled: set[Submission] = set()
        self._by_id: dict[str, Submission] = {}
        self._draining = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no request is waiting or running."""
        return not self._by_id

    def join(self, submissions: Sequence[Submission]) -> None:
        """Put requests last, all or none.

        Raises Overloaded, AlreadyExists or, draining or closed, Unavailable.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("the engine has stopped", reason="ENGINE_STOPPED")
            if self._draining:
                raise Unavailable("the server is draining", reason="DRAINING")
            newcomers = {submission.request.id: submission for submission in submissions}
            used = [request_id for request_id in newcomers if request_id in self._by_id]
            if used:
                raise AlreadyExists(f"request_id {used[0]!r} is in use")
            # Those that may run at once do not count as waiting, even before the engine has taken them in.
            if len(self._by_id) + len(newcomers) > self._max_running + self._max_waiting:
                raise Overloaded(
                    f"no room for {len(newcomers)} more: {len(self._by_id)} requests run or wait,"
                    f" of at most {self._max_running + self._max_waiting}",
                    reason="QUEUE_FULL",
                    retry_after_seconds=1.0,
                )
            self._by_id.update(newcomers)
            self._waiting.extend(submissions)
            self._changed.notify_all()

    def cancel(self, submission: Submission) -> None:
        """Ask for the end of a request; nothing happens when it has ended."""
        with self._changed:
            active = [each for each in submission.together() if self._is_active(each)]
            for each in active:
                each.mark_cancelled()
            self._cancelled.update(active)
            self._changed.notify_all()

    def first(self) -> Submission | None:
        """The request whose turn is next; it stays in the line."""
        with self._changed:
            return self._waiting[0] if self._waiting else None

    def leave(self, submission: Submission) -> bool:
        """Take a request out of the line, to run it; False when it was closed meanwhile."""
        with self._changed:
            if submission not in self._waiting:
                return False
            self._waiting.remove(submission)
            return True

    def take_cancelled(self) -> tuple[list[Submission], set[Submission]]:
        """What was cancelled since the last call: those that waited, now out of the line; and the others."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            dropped = [submission for submission in self._waiting if submission in cancelled]
            self._waiting = deque(s for s in self._waiting if s not in cancelled)
        return dropped, cancelled.difference(dropped)

    def end(self, submission: Submission) -> None:
        """A request has ended: its id may be used again."""
        with self._changed:
            if self._is_active(submission):
                del self._by_id[submission.request.id]
            self._cancelled.discard(submission)
            self._changed.notify_all()

    def wait_for_work(self, is_busy: Callable[[], bool]) -> bool:
        """Wait for something to do, here or as `is_busy` tells after a `wake`; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: is_busy() or self._waiting or self._cancelled or self._closed)
            return not self._closed

    def wake(self) -> None:
        """Have who waits for work look again."""
        with self._changed:
            self._changed.notify_all()

    def drain(self, timeout_seconds: float) -> bool:
        """Refuse newcomers and wait until every request has ended; False when some are left at the end."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._by_id, timeout_seconds)

    def close(self) -> list[Submission]:
        """Refuse newcomers for good and empty the line."""
        with self._changed:
            self._closed = True
            left, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
        return left

    def _is_active(self, submission: Submission) -> bool:
        return self._by_id.get(submission.request.id) is submission
