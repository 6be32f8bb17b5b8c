"""Programs of Debian that some tests ask: Prometheus, Alertmanager and their checkers."""

from __future__ import annotations

import subprocess

import pytest

from deploy.monitoring import find_program


def debian_tool(*names: str) -> str:
    """The first of the programs that is there; the test is skipped when none is."""
    found = find_program(*names)
    if found is None:
        pytest.skip(f"{names[0]} is neither on PATH nor in .tools, where `make prometheus` puts it")
    return found


def complaints(*command: str, text: str = "") -> str:
    """What a checker that fails has to say about a text or about files; nothing when all is well."""
    check = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return "" if check.returncode == 0 else check.stdout + check.stderr
