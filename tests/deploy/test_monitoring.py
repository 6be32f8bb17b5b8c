"""`make monitoring`: real Prometheus and Alertmanager as processes that start, know each other, and end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.monitoring import ALERTMANAGER_NAMES, DEPLOY, Addresses
from steerd.cli.server_process import free_ports
from tests.debian_tools import debian_tool
from tests.waiting import wait_until

TIMEOUT_SECONDS = 60.0


@pytest.fixture
def addresses() -> Addresses:
    debian_tool("prometheus")
    debian_tool(*ALERTMANAGER_NAMES)
    return Addresses(*(f"127.0.0.1:{port}" for port in free_ports(3)))


@pytest.fixture
def command(addresses: Addresses) -> Iterator[subprocess.Popen[str]]:
    """The command that make runs, after it has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.monitoring", *options(addresses)],
        cwd=DEPLOY.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.terminate()  # a kill would leave the two running
    process.communicate(timeout=TIMEOUT_SECONDS)


def options(addresses: Addresses) -> list[str]:
    names = ("metrics", "prometheus", "alertmanager")
    return [word for name in names for word in (f"--{name}", getattr(addresses, name))]


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as reply:
        return json.load(reply)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_run_until_a_signal(
    command: subprocess.Popen[str], addresses: Addresses, number: signal.Signals
) -> None:
    assert command.stdout is not None
    said = [command.stdout.readline() for _ in range(4)]
    prometheus = f"http://{addresses.prometheus}/api/v1"

    def known(what: str, key: str) -> Any:
        return get(f"{prometheus}/{what}")["data"][key]

    wait_until(lambda: known("alertmanagers", "activeAlertmanagers") and known("targets", "activeTargets"))
    (target,) = known("targets", "activeTargets")
    groups = known("rules", "groups")
    status = get(f"http://{addresses.alertmanager}/api/v2/status")
    command.send_signal(number)
    status_of_exit = command.wait(TIMEOUT_SECONDS)

    assert addresses.prometheus in said[0]
    assert addresses.alertmanager in said[1]
    assert f"No steerd at {addresses.metrics}" in said[2]
    assert {Path(group["file"]).name for group in groups} == {"alert_rules.yml", "recording_rules.yml"}
    assert target["scrapeUrl"] == f"http://{addresses.metrics}/metrics"
    assert "tickets" in status["config"]["original"]
    assert status_of_exit == 0
    for address in (addresses.prometheus, addresses.alertmanager):
        with pytest.raises(OSError, match="refused"):
            get(f"http://{address}/")


def test_the_end_of_one_is_the_end_of_both(command: subprocess.Popen[str], addresses: Addresses) -> None:
    assert command.stdout is not None
    said = [command.stdout.readline() for _ in range(4)]

    (prometheus,) = (pid for pid in children(command.pid) if "alertmanager" not in arguments(pid))
    os.kill(prometheus, signal.SIGKILL)

    assert said[3] != ""
    assert command.wait(TIMEOUT_SECONDS) == 1
    with pytest.raises(OSError, match="refused"):
        get(f"http://{addresses.alertmanager}/")


def test_a_port_in_use_is_told(command: subprocess.Popen[str], addresses: Addresses) -> None:
    assert command.stdout is not None
    said = [command.stdout.readline() for _ in range(4)]

    second = run(*options(addresses), cwd=DEPLOY.parent)

    assert said[3] != ""
    assert second.returncode == 1
    assert f"something listens at {addresses.alertmanager} already" in second.stderr
    assert "Traceback" not in second.stderr


def test_without_prometheus_it_says_how_to_get_it(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))

    ended = run(cwd=tmp_path, PATH="")

    assert ended.returncode == 1
    assert "make prometheus" in ended.stderr
    assert "Traceback" not in ended.stderr


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.monitoring", *arguments],
        cwd=cwd,
        env=os.environ | environment | {"PYTHONPATH": str(cwd)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def arguments(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
