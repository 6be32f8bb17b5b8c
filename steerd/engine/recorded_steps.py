"""Decode steps as recordings: Python launches the work of one forward once, the device itself from then on.

A recording, on CUDA a graph, is the device's work by the addresses of its tensors: no Python runs when it is
run again. So hooks are part of it as long as they do nothing but tensor arithmetic on tensors that stay; what
they read is found in such tensors afterwards. Drawing tokens is Python's work, and comes after it.

transformers would record its sampler too, and know its recordings by their sizes alone. What is recorded here
is its forward over its own static inputs at its own padded sizes; a recording is known by what the hooks do
besides. Its asynchronous mode is left out: it prepares a step before the tokens of the one before are known,
and scopes by token, stop strings and triggers depend on these.

Recording itself has never been run on a GPU by this project: tests replay the work of a forward on the CPU,
and `python -m benchmarks.gpu_check` does what is left where there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Protocol

import torch

Forward = Callable[[], None]

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """A way to run the device's work of a forward again."""

    def record(self, forward: Forward) -> Forward:
        """What does that work over again; recording it leaves every tensor as it was."""


class CudaRecorder:
    """Records CUDA graphs, which share their memory as no two run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, forward: Forward) -> Forward:
        """As Recorder's. Raises RuntimeError when the forward does what cannot be recorded."""
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            # Other threads have no part in it, whatever they do on the device.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                forward()
        replay: Forward = graph.replay
        return replay


class RecordedSteps:
    """Forwards by what they depend on beside the numbers in their tensors."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.replayed = 0
        """Forwards that were run from their recordings."""
        self.why_not = ""
        """What made recording impossible; from then on every forward just runs."""
        self._program: Hashable = None
        self._replays: dict[Hashable, Forward] = {}

    def run(self, forward: Forward, *, program: Hashable, shape: Hashable) -> None:
        """Run a forward, from its recording if there is one.

        Another `program` than the last makes all recordings void; there is one for each `shape`.
        """
        if program != self._program:
            self._replays.clear()
            self._program = program
        if (replay := self._replays.get(shape)) is not None:
            replay()
            self.replayed += 1
            return
        forward()  # to record it only writes down what is to be done
        if not self.why_not:
            self._record(forward, shape)

    def _record(self, forward: Forward, shape: Hashable) -> None:
        try:
            self._replays[shape] = self._recorder.record(forward)
        except RuntimeError as error:
            # This step has run, and without recordings all others do as well.
            _log.exception("a step of shape %s cannot be recorded; from now on none is", shape)
            self.why_not = f"recording a step failed: {error}"
            self._replays.clear()
