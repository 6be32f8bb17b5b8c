"""Prometheus and Alertmanager beside a running steerd, with the files of this folder: `make monitoring`.

Debian's packages or any others, on PATH or unpacked into .tools by `make prometheus`. What they store is
deleted when they end.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

DEPLOY = Path(__file__).parent
UNPACKED = DEPLOY.parent / ".tools" / "prometheus" / "usr" / "bin"
ALERTMANAGER_NAMES = ("prometheus-alertmanager", "alertmanager")  # Debian's name, its makers' name
START_SECONDS = 60.0
END_SECONDS = 20.0

# What says how soon things are noticed: ranges such as [5m], and these keys.
_DURATION = re.compile(r"(\[|\b(?:for|group_wait|\w+_interval): )(\d+)([smh])")
_MILLISECONDS = {"s": 1000, "m": 60_000, "h": 3_600_000}


class MonitoringError(Exception):
    """Something that the operator can mend; the message says what."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Who listens where, each HOST:PORT; the defaults are those of the files."""

    metrics: str = "127.0.0.1:9464"
    prometheus: str = "127.0.0.1:9090"
    alertmanager: str = "127.0.0.1:9093"


@dataclass(frozen=True, slots=True)
class Watchers:
    """The running processes; `alertmanager` is None where it is not installed."""

    prometheus: subprocess.Popen[bytes]
    alertmanager: subprocess.Popen[bytes] | None

    def ended(self) -> bool:
        """Whether one of them runs no more."""
        return any(process and process.poll() is not None for process in (self.prometheus, self.alertmanager))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C or SIGTERM; returns the process's exit status."""
    options = _parser().parse_args(arguments)
    addresses = Addresses(**vars(options))
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with watchers(addresses) as running:
            _introduce(addresses, running)
            while not stopped.wait(1.0):
                if running.ended():
                    raise MonitoringError("Prometheus or Alertmanager has ended")
    except MonitoringError as error:
        print(f"monitoring: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def watchers(addresses: Addresses, *, hurry: float = 1.0) -> Iterator[Watchers]:
    """Both processes, ready; they and what they stored are gone at the end.

    All intervals, windows and waits are divided by `hurry`. Raises MonitoringError when Prometheus is not
    installed or one of them does not start, with what it wrote.
    """
    prometheus = find_program("prometheus")
    if prometheus is None:
        raise MonitoringError(
            "prometheus is neither on PATH nor in .tools. On Debian: `make prometheus` unpacks it and "
            "Alertmanager into .tools; or install the packages prometheus and prometheus-alertmanager"
        )
    alertmanager = find_program(*ALERTMANAGER_NAMES)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steerd-monitoring-")))
        write_files(folder, addresses, hurry=hurry)
        beside = None
        if alertmanager is not None:
            beside = stack.enter_context(_alertmanager(alertmanager, folder, addresses))
        yield Watchers(stack.enter_context(_prometheus(prometheus, folder, addresses)), beside)


def find_program(*names: str) -> str | None:
    """The path of the first that is on PATH or in .tools."""
    places = (shutil.which(name) or shutil.which(name, path=str(UNPACKED)) for name in names)
    return next((place for place in places if place), None)


def write_files(folder: Path, addresses: Addresses, *, hurry: float = 1.0) -> None:
    """Put the configuration into a folder, with these addresses, and with durations divided by `hurry`."""
    shipped = Addresses()
    for path in (*DEPLOY.glob("prometheus/*.yml"), *DEPLOY.glob("alertmanager/*.yml")):
        text = path.read_text()
        for name in ("metrics", "alertmanager"):
            text = text.replace(f'"{getattr(shipped, name)}"', f'"{getattr(addresses, name)}"')
        (folder / path.name).write_text(hurried(text, hurry) if hurry != 1.0 else text)


def hurried(text: str, hurry: float) -> str:
    """The YAML with its intervals, waits and range windows divided; thresholds stay."""

    def divide(found: re.Match[str]) -> str:
        return f"{found[1]}{max(1, round(int(found[2]) * _MILLISECONDS[found[3]] / hurry))}ms"

    return _DURATION.sub(divide, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.monitoring", description=__doc__)
    shipped = Addresses()
    for name, what in (
        ("metrics", "steerd serves /metrics"),
        ("prometheus", "Prometheus is to listen"),
        ("alertmanager", "Alertmanager is to listen"),
    ):
        text = f"where {what}; %(default)s"
        parser.add_argument(f"--{name}", metavar="HOST:PORT", default=getattr(shipped, name), help=text)
    return parser


def _introduce(addresses: Addresses, running: Watchers) -> None:
    print(f"Prometheus    http://{addresses.prometheus}/alerts")
    if running.alertmanager is None:
        print("Alertmanager  not installed: alerts show in Prometheus only")
    else:
        print(f"Alertmanager  http://{addresses.alertmanager}/")
    if not _answers(f"http://{addresses.metrics}/metrics"):
        print(f"No steerd at {addresses.metrics} yet: `make serve` in another terminal starts one")
    print("Ctrl-C ends both", flush=True)


@contextmanager
def _prometheus(program: str, folder: Path, addresses: Addresses) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={addresses.prometheus}",
        "--enable-feature=exemplar-storage",
    ]
    with _process([program, *arguments], folder / "prometheus.log", addresses.prometheus) as process:
        yield process


@contextmanager
def _alertmanager(program: str, folder: Path, addresses: Addresses) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={addresses.alertmanager}",
        "--cluster.listen-address=",  # one alone looks for no others
    ]
    with _process([program, *arguments], folder / "alertmanager.log", addresses.alertmanager) as process:
        yield process


@contextmanager
def _process(command: list[str], log: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in the background, once it says that it is ready; ended at the end."""
    if _answers(f"http://{address}/-/ready"):
        raise MonitoringError(
            f"something listens at {address} already, perhaps a service of Debian's packages"
        )
    with log.open("wb") as output:
        # In a session of its own: Ctrl-C reaches this process only, which then ends the others in order.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait_until_ready(process, address, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while not _answers(f"http://{address}/-/ready"):
        if process.poll() is not None or time.monotonic() > give_up:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise MonitoringError(f"{log.stem} does not start at {address}:\n{last}")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
