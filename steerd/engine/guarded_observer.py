"""An observer that may fail without taking the engine with it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from steerd.engine.events import EngineObserver, LastEvent, StepReport
from steerd.engine.request import GenerationRequest

_log = logging.getLogger(__name__)


class GuardedObserver:
    """Passes everything on to an observer; what that raises is logged and goes no further."""

    def __init__(self, observer: EngineObserver) -> None:
        self._observer = observer

    def step_finished(self, report: StepReport) -> None:
        _tell(self._observer.step_finished, report)

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None:
        _tell(self._observer.request_finished, request, event)

    def first_token(self, request: GenerationRequest, seconds: float) -> None:
        _tell(self._observer.first_token, request, seconds)


def _tell(tell: Callable[..., None], *what: object) -> None:
    try:
        tell(*what)
    except Exception:
        _log.exception("the observer failed")
