"""How tests wait for what nothing tells them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TIMEOUT_SECONDS = 60.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask again and again; fails when the answer stays no."""
    pause, give_up = threading.Event(), time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        pause.wait(0.05)
