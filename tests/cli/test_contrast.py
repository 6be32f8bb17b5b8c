"""`steerd contrast` against a server with the planted host."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerd.__main__ import main
from tests.planted_host import FEATURES
from tests.server.planted_server import planted_server
from tests.server.running_server import RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with planted_server() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Letters with an E in each text, as lines; letters alone, as JSON lines."""
    chance = random.Random(5)
    letters = ["".join(chance.choices("abcdefgh", k=12)) for _ in range(40)]
    with_e, plain = tmp_path / "with_e.txt", tmp_path / "plain.jsonl"
    with_e.write_text("\n\n".join(f"{text[:4]}E{text[4:]}" for text in letters[:20]))
    plain.write_text("\n".join(json.dumps({"text": text}) for text in letters[20:]))
    return str(with_e), str(plain)


def test_what_differs_is_printed(
    server: RunningServer, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["contrast", *files, "--address", server.address]) == 0

    printed = capsys.readouterr()
    output = printed.out
    assert "20 texts of A, 20 of B" in output
    assert "More in A, with_e.txt" in output
    assert "so few texts" not in printed.err
    assert re.search(rf"early:{FEATURES['E'].index}\b.*planted E.*100%.*0%.*1\.00.*0\.00.*\+1\.00", output)


def test_too_few_texts_are_told(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = (tmp_path / "a.txt", tmp_path / "b.txt")
    texts[0].write_text("abE\n\ncEd\n\nEfg\n\nhEa")
    texts[1].write_text("abc\n\ndef\n\ngha\n\nbcd")
    assert main(["contrast", *map(str, texts), "--address", server.address]) == 0

    said = capsys.readouterr()
    assert "0 differ" in said.out
    assert "so few texts hardly show a difference: 20 or more of each do" in said.err


def test_json_has_every_figure(
    server: RunningServer, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "--sae", "early", "--top", "1", "--mean", "--rate", "0.01", "--seed", "3"]
    assert main(["contrast", *files, *options, "--address", server.address]) == 0

    found = json.loads(capsys.readouterr().out)
    (feature,) = found["features"]
    assert feature["feature"] == {"sae": "early", "index": FEATURES["E"].index}
    assert feature["confirmed"] is True
    assert feature["held_out"]["a"]["text_rate"] == 1.0
    assert found["a"]["held_out_texts"] == 10
