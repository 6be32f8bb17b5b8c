from __future__ import annotations

import json

import pytest

from sae_train.report.script_json import rounded, script_json


def test_json_means_the_same_and_cannot_end_a_script() -> None:
    value = {"<!--": ["</script>", "]]>", "&lt;", "\u2028\u2029", "\x00\r\n", 'quo"te\\', "ünï水🙂"]}

    text = script_json(value)

    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029\x00\r\n") & set(text)
    assert "水" in text


def test_halves_of_characters_can_be_written() -> None:
    text = script_json("a\ud83d")

    assert text.encode() == b'"a\\ud83d"'


def test_numbers_that_are_no_json_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json([float("nan")])


@pytest.mark.parametrize(
    ("value", "short"), [(0.1234567, 0.123457), (32.0, 32), (1e20, 1e20), (-0.0, 0), (123456789.0, 123457000)]
)
def test_rounding_keeps_significant_digits(value: float, short: float) -> None:
    assert rounded(value) == short
    assert json.dumps(rounded(32.0)) == "32"
