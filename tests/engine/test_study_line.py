"""Who gets the next slice, how often, and how a study ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from functools import partial

import pytest

from steerd.engine.study import Progress, SliceRoom, StudyEnded, StudyFailed
from steerd.engine.study_line import StudyLine
from steerd.engine.study_pace import StudyPace
from steerd.errors import Overloaded, Unavailable
from tests.engine.studies import Counting, StudyRecorder

A_LONG_TIME = 1e9  # seconds of steps


def make_line(
    share: float = 0.25, max_studies: int = 3, is_wanted: Callable[[], bool] = lambda: False
) -> StudyLine:
    pace = StudyPace(small=100, large=150)
    return StudyLine(max_studies=max_studies, share=share, pace=pace, is_wanted=is_wanted, wake=lambda: None)


def test_studies_take_turns_and_end_each_with_its_result() -> None:
    line, order = make_line(), []
    studies = {name: Counting(3, partial(lambda name, _: order.append(name), name)) for name in "abc"}
    recorders = {name: StudyRecorder() for name in studies}
    for name, study in studies.items():
        line.join(study, recorders[name])

    while line:
        line.turn(None)

    assert order == list("abcabcabc")
    for recorder in recorders.values():
        assert recorder.events == [Progress(n, 3, "slices") for n in (1, 2, 3)] + [StudyEnded([0, 1, 2])]


def test_beside_requests_a_slice_waits_until_the_steps_had_their_share() -> None:
    line, recorder = make_line(share=0.2), StudyRecorder()
    lengths: list[float] = []

    def work(_: int) -> None:
        started = time.monotonic()
        while time.monotonic() == started:
            pass
        lengths.append(time.monotonic() - started)

    line.join(Counting(9, work), recorder)
    line.turn(0.0)
    assert len(lengths) == 1, "nothing is owed at first"

    for _ in range(7):
        line.turn(lengths[0] / 2)
    assert len(lengths) == 1, "3.5 of at least 4 times the slice"

    line.turn(A_LONG_TIME)
    assert len(lengths) == 2
    line.turn(None)
    assert len(lengths) == 3, "no request runs: nothing is owed"


def test_a_stopped_study_ends_with_what_it_has_also_while_no_slice_is_due() -> None:
    line, kept, dropped = make_line(), StudyRecorder(), StudyRecorder()
    first, second = Counting(9), Counting(9)
    kept_job, dropped_job = line.join(first, kept), line.join(second, dropped)
    line.turn(None)
    line.turn(None)

    line.stop(kept_job, keep=True)
    line.stop(dropped_job, keep=False)
    line.stop(dropped_job, keep=True)
    line.turn(0.0)

    assert kept.events[-1] == StudyEnded([0])
    assert isinstance(dropped.events[-1], StudyFailed)
    assert first.cleaned
    assert second.cleaned
    assert len(line) == 0
    line.stop(kept_job, keep=True)
    line.turn(None)
    assert len(kept.events) == 2, "it had ended"


def test_a_study_that_never_ran_has_a_result_too() -> None:
    line, recorder = make_line(), StudyRecorder()
    line.stop(line.join(Counting(9), recorder), keep=True)

    line.turn(A_LONG_TIME)

    assert recorder.events == [StudyEnded([])]


def test_a_study_that_fails_leaves_the_others_alone() -> None:
    def fail(number: int) -> None:
        if number == 1:
            raise MemoryError("no room")

    line, bad, good = make_line(), StudyRecorder(), StudyRecorder()
    failing = Counting(3, fail)
    line.join(failing, bad)
    line.join(Counting(3), good)
    while line:
        line.turn(None)

    assert [type(event) for event in bad.events] == [Progress, StudyFailed]
    assert isinstance(bad.events[-1].error, MemoryError)
    assert failing.cleaned
    assert good.wait() == [0, 1, 2]


def test_a_result_that_cannot_be_made_fails_the_study() -> None:
    class Broken(Counting):
        def result(self) -> list[int]:
            raise ArithmeticError("nothing to divide")

    line, recorder = make_line(), StudyRecorder()
    line.join(Broken(1), recorder)
    while line:
        line.turn(None)

    with pytest.raises(ArithmeticError):
        recorder.wait()


def test_the_line_is_bounded() -> None:
    line = make_line(max_studies=2)
    job = line.join(Counting(1), StudyRecorder())
    line.join(Counting(1), StudyRecorder())

    with pytest.raises(Overloaded, match="2 studies are under way, of at most 2") as refused:
        line.join(Counting(1), StudyRecorder())
    assert refused.value.reason == "TOO_MANY_STUDIES"

    line.stop(job, keep=False)
    line.turn(None)
    line.join(Counting(1), StudyRecorder())


def test_a_drained_line_keeps_what_is_known_and_takes_nothing_more() -> None:
    line, recorder = make_line(), StudyRecorder()
    line.join(Counting(9), recorder)
    line.turn(None)

    line.drain(Unavailable("draining", reason="DRAINING"))
    assert not line.wait_until_empty(0)
    line.turn(A_LONG_TIME)

    assert recorder.wait() == [0]
    assert line.wait_until_empty(0)
    with pytest.raises(Unavailable, match="draining"):
        line.join(Counting(1), StudyRecorder())


def test_an_abandoned_line_fails_its_studies() -> None:
    line, recorder = make_line(), StudyRecorder()
    study = Counting(9)
    line.join(study, recorder)
    line.turn(None)

    line.abandon(Unavailable("stopped", reason="ENGINE_STOPPED"))

    with pytest.raises(Unavailable, match="stopped"):
        recorder.wait()
    assert study.cleaned
    with pytest.raises(Unavailable, match="stopped"):
        line.join(Counting(1), StudyRecorder())


class Roomy(Counting):
    """Keeps the room that it is given."""

    def __init__(self, slices: int) -> None:
        super().__init__(slices)
        self.rooms: list[SliceRoom | None] = []

    def run(self) -> Generator[Progress, SliceRoom | None, None]:
        for number in range(self.slices):
            self.rooms.append((yield Progress(number + 1, self.slices, "slices")))

    @property
    def rows(self) -> list[int | None]:
        return [room and room.rows for room in self.rooms]


def test_slices_have_more_and_more_room_until_a_request_comes() -> None:
    wanted = False
    line, recorder, study = make_line(is_wanted=lambda: wanted), StudyRecorder(), Roomy(9)
    job = line.join(study, recorder)

    for _ in range(4):
        line.turn(None)
    assert study.rows == [126, 150, 150]
    wanted = True
    line.turn(None)
    line.turn(A_LONG_TIME)
    assert study.rows[3:] == [None, None]
    wanted = False
    line.turn(None)
    assert study.rows[5:] == [126]

    room = study.rooms[-1]
    assert room is not None
    assert not room.must_end()
    wanted = True
    assert room.must_end()
    wanted = False
    line.stop(job, keep=True)
    assert room.must_end(), "nobody waits for the rest of the study"


def test_studies_that_take_no_room_end_as_ever() -> None:
    class Listed(Counting):
        def run(self) -> Iterator[Progress]:
            return iter([Progress(n + 1, self.slices, "slices") for n in range(self.slices)])

    line, recorders = make_line(), [StudyRecorder(), StudyRecorder()]
    line.join(Listed(3), recorders[0])
    line.join(Roomy(3), recorders[1])
    while line:
        line.turn(None)

    for recorder in recorders:
        assert recorder.events == [Progress(n, 3, "slices") for n in (1, 2, 3)] + [StudyEnded([])]
