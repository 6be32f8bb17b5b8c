"""The studies that are under way: a bounded line, of which one gets a slice between two steps."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

from steerd.engine.study import DeliverStudy, Progress, SliceRoom, Study, StudyEnded, StudyFailed
from steerd.engine.study_pace import StudyPace
from steerd.errors import Overloaded, SteerdError, Unavailable

_log = logging.getLogger(__name__)


class StudyJob:
    """One study that was taken in: what its client holds, and stops it by, until it has ended."""

    def __init__(self, study: Study[Any], deliver: DeliverStudy) -> None:
        self.study = study
        self.deliver = deliver
        self.slices: Iterator[Progress] | None = None  # from its first slice on, the engine thread's
        self.is_stopped = False
        self.keeps_result = True


class StudyLine:
    """Takes studies in from any thread; the engine thread runs them in turn, a slice each.

    While requests run, slices get at most `share` of the time; while none are there, slices grow as `pace`
    says.
    """

    def __init__(
        self,
        *,
        max_studies: int,
        share: float,
        pace: StudyPace,
        is_wanted: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        """`is_wanted` says whether any request waits or runs; `wake` tells the engine thread that there is
        something to do."""
        self._max_studies = max_studies
        self._steps_per_slice = 1 / share - 1  # seconds of steps that a second of slices owes
        self._owed = 0.0
        self._pace = pace
        self._is_wanted = is_wanted
        self._wake = wake
        self._changed = threading.Condition()  # guards all below
        self._jobs: deque[StudyJob] = deque()
        self._refusal: Unavailable | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def join(self, study: Study[Any], deliver: DeliverStudy) -> StudyJob:
        """Take a study in; raises Overloaded when there are too many, Unavailable after `drain`."""
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            if len(self._jobs) >= self._max_studies:
                raise too_many_studies(len(self._jobs), self._max_studies)
            job = StudyJob(study, deliver)
            self._jobs.append(job)
        self._wake()
        return job

    def stop(self, job: StudyJob, *, keep: bool) -> None:
        """End a study before its next slice, with the result so far or none; nothing if it has ended."""
        with self._changed:
            job.keeps_result = keep and (job.keeps_result or not job.is_stopped)
            job.is_stopped = True
        self._wake()

    def drain(self, refusal: Unavailable) -> None:
        """Take no more in, and have all end with the result so far."""
        with self._changed:
            self._refusal = refusal
            for job in self._jobs:
                job.is_stopped = True
        self._wake()

    def wait_until_empty(self, timeout_seconds: float) -> bool:
        """Wait until every study has ended; False when some are left."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout_seconds)

    def turn(self, step_seconds: float | None) -> None:
        """After a step that took so long, or none: end what is stopped and, when it is due, run a slice."""
        for stopped in self._stopped():
            self._end(stopped)
        self._owed = 0.0 if step_seconds is None else self._owed - step_seconds
        if step_seconds is not None or self._is_wanted():
            self._pace.shrink()
        job = self._next() if self._owed <= 0 else None
        if job is not None:
            started = time.monotonic()
            self._run_slice(job)
            self._owed = (time.monotonic() - started) * self._steps_per_slice
            self._pace.grow()

    def abandon(self, error: Unavailable) -> None:
        """Take no more in, and fail those there are; only when no slice can run any more."""
        with self._changed:
            self._refusal = error
            jobs = list(self._jobs)
        for job in jobs:
            self._fail(job, error)

    def _stopped(self) -> list[StudyJob]:
        with self._changed:
            return [job for job in self._jobs if job.is_stopped]

    def _next(self) -> StudyJob | None:
        """The study whose turn it is; its next turn is after all others'."""
        with self._changed:
            self._jobs.rotate(-1)
            return self._jobs[-1] if self._jobs else None

    def _run_slice(self, job: StudyJob) -> None:
        try:
            progress = self._next_progress(job)
        except Exception as error:
            self._fail(job, error)
            return
        if progress is None:
            self._end(job)
        else:
            job.deliver(progress)

    def _next_progress(self, job: StudyJob) -> Progress | None:
        """Of one slice; None when there is none left."""
        if job.slices is None:
            job.slices = job.study.run()
            return next(job.slices, None)
        rows = self._pace.rows
        if rows is None or not isinstance(job.slices, Generator):
            return next(job.slices, None)
        try:
            room = SliceRoom(rows, lambda: job.is_stopped or self._is_wanted())
            progress: Progress = job.slices.send(room)
            return progress
        except StopIteration:
            return None

    def _end(self, job: StudyJob) -> None:
        """Tell the result, or drop it if nobody wants it."""
        if not job.keeps_result:
            self._fail(job, Unavailable("the study was given up", reason="GIVEN_UP"))
            return
        try:
            _close(job)
            result = job.study.result()
        except Exception as error:
            self._fail(job, error)
            return
        self._leave(job)
        job.deliver(StudyEnded(result))

    def _fail(self, job: StudyJob, error: Exception) -> None:
        if not isinstance(error, SteerdError):
            _log.error("a study failed", exc_info=error)
        try:
            _close(job)
        except Exception:
            _log.exception("a study did not end well")
        self._leave(job)
        job.deliver(StudyFailed(error))

    def _leave(self, job: StudyJob) -> None:
        """Make room for another: who hears of the end may begin one at once."""
        with self._changed:
            self._jobs.remove(job)
            self._changed.notify_all()


def too_many_studies(under_way: int, most: int) -> Overloaded:
    """The refusal of a study for want of room."""
    message = f"{under_way} studies are under way, of at most {most}"
    return Overloaded(message, reason="TOO_MANY_STUDIES", retry_after_seconds=5.0)


def _close(job: StudyJob) -> None:
    """Let the study clean up behind itself."""
    close = getattr(job.slices, "close", None)
    if close is not None:
        close()
