"""A process of its own, perhaps in another environment, which answers every JSON line with one."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SHOWN_CHARACTERS = 4000
_ROOT = Path(__file__).parent.parent


class LineProcess:
    """What `line_process` started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a line and return the answer; RuntimeError when the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended when it was asked for {list(request)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def line_process(command: Sequence[str], *, threads: int) -> Iterator[LineProcess]:
    """Run a command that finds the benchmarks' modules; what it complains of is shown when it fails."""
    settings = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(_ROOT)}
    environment = os.environ | settings
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            text=True,
        ) as process,
    ):
        try:
            yield LineProcess(process)
        except RuntimeError:
            complaints.seek(0)
            print(complaints.read()[-_SHOWN_CHARACTERS:])
            raise
        finally:
            process.kill()
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # what a process that had ended never read
                process.stdin.close()
