"""A steerd server as a child process, for the demo, the end-to-end tests and the benchmarks."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steerd.client import Client
from steerd.client_channel import RemoteError
from steerd.errors import SteerdError

_ONE_TRY_SECONDS = 2.0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def server_process(config: Path, *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`steerd serve CONFIG` with its output in a file; the process is gone at the end.

    When the block fails, what the server wrote is shown.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "steerd", "serve", str(config)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace"))
        raise
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until_serving(process: subprocess.Popen[bytes], address: str, *, timeout_seconds: float) -> float:
    """Seconds until the server serves; raises SteerdError when it ends before that, or takes too long."""
    start = time.monotonic()
    with Client(address) as client:
        while (waited := time.monotonic() - start) < timeout_seconds:
            if process.poll() is not None:
                raise SteerdError(f"the server ended with status {process.returncode} before it served")
            try:
                client.wait_until_serving(_ONE_TRY_SECONDS)
            except RemoteError:
                continue
            return time.monotonic() - start
    raise SteerdError(f"the server did not serve within {waited:.0f} s, the limit is {timeout_seconds:.0f} s")


def stop(process: subprocess.Popen[bytes], *, timeout_seconds: float) -> int:
    """Ask the server to drain and end, as an operator would; its exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=timeout_seconds)
