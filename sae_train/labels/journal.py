"""What judges have answered so far, in a file: a run that was cut off asks nothing twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from steerd.errors import SteerdError
from steerd.sae.feature_label import FeatureLabel, LabelScore


class JournalError(SteerdError):
    """A journal that is damaged, or of other labels, weights or texts."""

    reason = "JOURNAL_ERROR"


@dataclass(frozen=True, slots=True)
class JudgedFeature:
    """What was found about one feature: scores of the label made of tokens, the written one with its own."""

    feature: int
    scores: tuple[LabelScore, ...]
    written: FeatureLabel | None


class Journal:
    """One line a feature, behind a first line that says what all is about. Use it inside `open_journal`."""

    def __init__(self, file: IO[str], done: dict[int, JudgedFeature]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.done = done

    def add(self, judged: JudgedFeature) -> None:
        """Write a feature down, at once; from any thread."""
        with self._lock:
            self.done[judged.feature] = judged
            self._file.write(json.dumps(asdict(judged)) + "\n")
            self._file.flush()


@contextmanager
def open_journal(path: Path, about: dict[str, Any]) -> Iterator[Journal]:  # Any: JSON values
    """Go on with the journal at `path`, or begin it; raises JournalError when it is about something else.

    A last line that was cut off in the middle is forgotten.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8") as file:
            lines = _whole_lines(file, path)
            _check_about(lines[0] if lines else about, about, path)
            if not lines:
                file.write(json.dumps(about) + "\n")
            judged = map(_judged, lines[1:])
            yield Journal(file, {each.feature: each for each in judged})
    except OSError as error:
        raise JournalError(f"{path}: cannot be read or written: {error.strerror}") from error


def _whole_lines(file: IO[str], path: Path) -> list[dict[str, Any]]:
    """The lines of a journal, which ends behind them from now on."""
    file.seek(0)
    text = file.read()
    whole = text[: text.rfind("\n") + 1]
    file.truncate(len(whole.encode()))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise JournalError(f"{path}: is damaged: {error}; delete it to begin anew") from error


def _check_about(found: dict[str, Any], about: dict[str, Any], path: Path) -> None:
    changed = sorted(key for key in {*found, *about} if found.get(key) != about.get(key))
    if changed:
        raise JournalError(f"{path}: is about another {', '.join(changed)}; delete it to begin anew")


def _judged(line: dict[str, Any]) -> JudgedFeature:
    written = line["written"]
    return JudgedFeature(
        line["feature"],
        _scores(line["scores"]),
        written and FeatureLabel(written["text"], _scores(written["scores"]), written["by"]),
    )


def _scores(lines: list[dict[str, Any]]) -> tuple[LabelScore, ...]:
    return tuple(LabelScore(**line) for line in lines)
