"""`steerd serve` with an engine that dies at SIGUSR1 and, from one SIGUSR2 to the next, stands still."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from steerd.app import serve
from steerd.config_file import load_config
from steerd.engine.continuous_batching import PackedRows
from steerd.engine.step import Step

PAUSE_SECONDS = 0.05


def main() -> int:
    """Serve the config that the command line names; returns the process's exit status."""
    _break_steps()
    return serve(load_config(Path(sys.argv[1])))


def _break_steps() -> None:
    dead, stuck = threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: dead.set())
    signal.signal(signal.SIGUSR2, lambda *_: stuck.clear() if stuck.is_set() else stuck.set())
    run = Step.run

    def run_or_break(step: Step, packed: Sequence[PackedRows]) -> None:
        while stuck.is_set():
            time.sleep(PAUSE_SECONDS)
        if dead.is_set():
            sys.exit()  # of the thread: an end that no handler of exceptions sees
        run(step, packed)

    Step.run = run_or_break  # type: ignore[assignment]  # no server has a switch for this


if __name__ == "__main__":
    sys.exit(main())
