"""`steerd encode` against a real server with a tiny host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerd.__main__ import main
from steerd.cli.encode import whole_texts
from steerd.studies.encoded_tokens import EncodedTokens, EncodeSummary
from tests.server.running_server import RunningServer, tiny_config, tiny_parts


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(tiny_config(), *tiny_parts()) as running:
        yield running


def encode(server: RunningServer, *arguments: str) -> int:
    return main(["encode", "--address", server.address, *arguments])


def test_a_table_of_each_token_and_the_text_painted(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(server, "--raw", "Hi [x]", "--watch", "late:3", "--top-features", "2") == 0

    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("late:3") and "up to" in line for line in lines)
    assert "Hi [x]" in lines
    assert sum("'" in line for line in lines) == 6, "a row for each of its bytes"


def test_json_has_an_object_for_each_text_of_a_file(
    server: RunningServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "Hi"}\n{"messages": [{"role": "user", "content": "Ho"}]}\n')

    assert encode(server, "--file", str(file), "--full", "--sae", "late", "--json") == 0

    records = sorted(map(json.loads, capsys.readouterr().out.splitlines()), key=lambda each: each["text"])
    assert [record["text"] for record in records] == [0, 1]
    assert [token["text"] for token in records[0]["tokens"]] == ["H", "i"]
    assert records[1]["tokens"][0]["text"] == "<|im_start|>"
    features = records[0]["tokens"][1]["features"]
    assert len(features) > 10
    assert all(each["feature"].startswith("late:") and each["activation"] > 0 for each in features)


def test_without_a_text_it_is_bad_usage(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        encode(server)

    assert ended.value.code == 2
    assert "a TEXT or --file is required" in capsys.readouterr().err


def test_what_the_server_refuses_is_one_line(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(server, "Hi", "--sae", "none") == 1

    assert capsys.readouterr().err.startswith("steerd: no SAE named 'none'")


def test_parts_of_a_text_become_one() -> None:
    parts = [
        EncodedTokens(text, first, (first, first + 1), (), ("a", "b"))
        for text, first in ((4, 0), (4, 2), (2, 0), (4, 0))
    ]

    whole = list(whole_texts([*parts, EncodeSummary(True, 3, 8)]))

    texts = [each for each in whole if isinstance(each, EncodedTokens)]
    assert [(text.text, text.token_ids) for text in texts] == [(4, (0, 1, 2, 3)), (2, (0, 1)), (4, (0, 1))]
    assert whole[-1] == EncodeSummary(True, 3, 8)
