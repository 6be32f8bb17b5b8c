"""Systems that decode side by side, a step each in turn: what else the machine does, it does to all."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from benchmarks.outcome import TIMEOUT_SECONDS

Prompts = Sequence[Sequence[int]]


class Stepper(Protocol):
    """Whatever can take a step when it is asked to."""

    def step(self) -> float:
        """Take one; the seconds that it took."""


class Gate:
    """Stops a thread after each of its steps until it is let through."""

    def __init__(self) -> None:
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._open = False
        self._error: BaseException | None = None
        self.decodes = False
        """Whether the last step was one of decoding alone."""

    def step_done(self, *, decodes: bool) -> None:
        """Called by the thread after each step; returns when it may take another."""
        self.decodes = decodes
        self._done.release()
        if not self._open:
            self._go.acquire()

    def fail(self, error: BaseException) -> None:
        """Called by a thread that ends by an error, which the waiting side raises."""
        self._error = error
        self._done.release()

    def let_through(self) -> float:
        """Have the thread take one step; the seconds that it took."""
        started = time.perf_counter()
        self._go.release()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Return when the thread has taken its step."""
        if not self._done.acquire(timeout=TIMEOUT_SECONDS):
            raise TimeoutError("a step did not end")
        if self._error is not None:
            raise self._error

    def open(self) -> None:
        """Let the thread go on unstopped."""
        self._open = True
        self._go.release()


class PacedSystem(ABC):
    """Generates for one batch of prompts in a thread of its own, a step a turn.

    Used once: `begin`, any number of `step`s, `end`.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.prefill_seconds = 0.0

    def begin(self, prompts: Prompts, num_new: int) -> None:
        """Run the prompts; returns after the first step in which all requests decode."""
        started = time.perf_counter()
        self._start(prompts, num_new)
        self.gate.wait()
        while not self.gate.decodes:
            self.prefill_seconds = time.perf_counter() - started
            self.gate.let_through()

    def step(self) -> float:
        """Decode a token for every request; the seconds that it took."""
        seconds = self.gate.let_through()
        assert self.gate.decodes, "a request ended early"
        return seconds

    def end(self) -> None:
        """Break the generation off."""
        self.gate.open()
        self._finish()

    @abstractmethod
    def _start(self, prompts: Prompts, num_new: int) -> None:
        """Have the thread begin; it tells the gate of every step."""

    @abstractmethod
    def _finish(self) -> None:
        """End the thread, which nothing stops any more."""


def take_turns(steppers: Mapping[str, Stepper], steps: int) -> dict[str, list[float]]:
    """Seconds of `steps` steps of each; every round begins with another one."""
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    names = list(steppers)
    for number in range(steps):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(steppers[name].step())
    return seconds


def num_new_tokens(steps: int, prompts: Prompts, max_batch_tokens: int) -> int:
    """How many new tokens a request needs so that all decode together for `steps` turns.

    The first request is as many tokens ahead of the last as there were steps of prefill.
    """
    return steps + sum(map(len, prompts)) // max_batch_tokens + 4
