"""What a study is: work beside generation that asks the host and its SAEs why, in slices between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a study is: `done` of `total` things that are named by `unit` (texts, tokens, nodes).

    `part` is what the slice found, where that is told at once and not with the result; of the study's own
    type.
    """

    done: int
    total: int
    unit: str
    part: Any = None


@dataclass(frozen=True, slots=True)
class SliceRoom:
    """Leave for a large slice while no request is there: of about so many rows.

    It is given up, before the next layer of its forward, as soon as `must_end` says so; the slice is over
    then, and the study does its work in a later one.
    """

    rows: int
    must_end: Callable[[], bool]


class Study(Protocol[R_co]):
    """Runs on the engine's thread, in inference mode, while the hooks of requests are at rest.

    A study that needs gradients opens `torch.inference_mode(False)` and `torch.enable_grad()` itself, and
    closes both before it yields. What it attached to the host it takes off before it yields, too.
    """

    def run(self) -> Iterator[Progress]:
        """Do the work; each `next` is one slice: at most one forward (and backward), or work of like size.

        Where it is a generator, a SliceRoom may be sent into it instead; nothing is lost by ignoring that.
        """

    def result(self) -> R_co:
        """What is known from the slices so far; it says itself whether that is all. Asked between slices."""


@dataclass(frozen=True, slots=True)
class StudyEnded:
    """The last event of a study: its result, which may be that of a part of the work."""

    result: Any  # of the study's own type


@dataclass(frozen=True, slots=True)
class StudyFailed:
    """The last event of a study that has no result; `error` is for the client."""

    error: Exception


StudyEvent = Progress | StudyEnded | StudyFailed
DeliverStudy = Callable[[StudyEvent], None]
