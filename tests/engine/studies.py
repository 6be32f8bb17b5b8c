"""Studies for tests, and a client that keeps what is delivered of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from steerd.engine.engine import Engine
from steerd.engine.study import Progress, Study, StudyEnded, StudyEvent, StudyFailed
from steerd.engine.study_line import StudyJob
from tests.engine.recorder import TIMEOUT_SECONDS


@dataclass
class Counting:
    """Does `work` in each of `slices` slices; its result is the numbers of those that are done."""

    slices: int
    work: Callable[[int], None] = lambda _: None
    done: list[int] = field(default_factory=list)
    cleaned: bool = False

    def run(self) -> Iterator[Progress]:
        try:
            for number in range(self.slices):
                self.work(number)
                self.done.append(number)
                yield Progress(number + 1, self.slices, "slices")
        finally:
            self.cleaned = True

    def result(self) -> list[int]:
        return list(self.done)


@dataclass
class StudyRecorder:
    """The events of one study."""

    events: list[StudyEvent] = field(default_factory=list)
    job: StudyJob = field(init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: StudyEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for_progress(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.events) >= count, TIMEOUT_SECONDS)

    def wait(self) -> object:
        """Wait for the result; raises what the study failed with."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, TIMEOUT_SECONDS), "the study never ended"
        last = self.events[-1]
        if isinstance(last, StudyFailed):
            raise last.error
        assert isinstance(last, StudyEnded)
        return last.result

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], StudyEnded | StudyFailed)


def begin(engine: Engine, study: Study[object]) -> StudyRecorder:
    recorder = StudyRecorder()
    recorder.job = engine.study(study, recorder)
    return recorder
